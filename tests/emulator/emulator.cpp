#include <setjmp.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <limits>
#include <map>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "cuda_runtime.h"
#include "kernels/device_memory.h"
#include "kernels/dtype.h"

uint3 threadIdx{}, blockIdx{};
dim3 blockDim, gridDim;

namespace tangram::emulator {
namespace {

constexpr size_t kStackBytes = 128 << 10;
constexpr uint64_t kPoison = ~uint64_t{0};  // a NaN, as f32, bf16 and f64

/// Where a group of threads meets: all that live and belong to it.
struct Barrier {
  int members = 0, arrived = 0;
  uint64_t generation = 0;

  void release_if_full() {
    if (arrived == 0 || arrived < members) return;
    arrived = 0;
    ++generation;
  }
};

struct Warp {
  Barrier barrier;
  uint64_t slots[warpSize];
  LaneRegisters registers[warpSize];
};

/// A copy to shared memory that was started, or the end of a group of them.
struct PendingCopy {
  void* to;
  const void* from;  // null: zeros
  size_t bytes;      // 0: the end of a group
};

struct Fiber {
  ucontext_t context;  // where it starts
  jmp_buf resume;      // where it goes on: of the C library's ways to switch the one without a system call
  std::vector<PendingCopy> copies;
  std::unique_ptr<char[]> stack;
  uint3 index;
  int linear = 0;
  bool started = false, done = false;
};

/// The block at work. Only one is at a time, whichever host thread runs it.
struct Block {
  const std::function<void()>* thread;
  std::vector<Fiber> fibers;
  std::vector<Warp> warps;
  Barrier barrier;
  std::vector<uint64_t> shared;
  jmp_buf scheduler;
  Fiber* current = nullptr;
  size_t waits = 0;  // for the kernel before
  std::exception_ptr failure;
};

Block block;
uint64_t launches = 0;

Warp& current_warp() { return block.warps[size_t(block.current->linear / warpSize)]; }

void yield() {
  Fiber* self = block.current;
  if (!_setjmp(self->resume)) _longjmp(block.scheduler, 1);
  threadIdx = self->index;
}

/// Runs a fiber until it yields or ends.
void resume(Fiber& fiber) {
  block.current = &fiber;
  threadIdx = fiber.index;
  if (_setjmp(block.scheduler)) return;
  if (std::exchange(fiber.started, true)) _longjmp(fiber.resume, 1);
  setcontext(&fiber.context);
}

void wait(Barrier& barrier) {
  const uint64_t generation = barrier.generation;
  ++barrier.arrived;
  barrier.release_if_full();
  while (barrier.generation == generation) yield();
}

void leave(Fiber& fiber) {
  Warp& warp = block.warps[size_t(fiber.linear / warpSize)];
  warp.slots[fiber.linear % warpSize] = kPoison;
  for (Barrier* b : {&warp.barrier, &block.barrier}) {
    --b->members;
    b->release_if_full();
  }
  fiber.done = true;
}

void fiber_main() {
  try {
    (*block.thread)();
  } catch (...) {
    block.failure = std::current_exception();
  }
  leave(*block.current);
  _longjmp(block.scheduler, 1);
}

void start(Fiber& fiber, int linear, dim3 size) {
  fiber.linear = linear;
  fiber.index = {unsigned(linear) % size.x, unsigned(linear) / size.x % size.y, unsigned(linear) / (size.x * size.y)};
  fiber.started = fiber.done = false;
  fiber.copies.clear();
  if (!fiber.stack) fiber.stack.reset(new char[kStackBytes]);
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = fiber.stack.get();
  fiber.context.uc_stack.ss_size = kStackBytes;
  fiber.context.uc_link = nullptr;
  makecontext(&fiber.context, fiber_main, 0);
}

uint64_t openings() {
  uint64_t sum = block.barrier.generation;
  for (const Warp& warp : block.warps) sum += warp.barrier.generation;
  return sum;
}

void run_block(dim3 size) {
  const auto count = static_cast<int>(size.x * size.y * size.z);
  block.fibers.resize(std::max(block.fibers.size(), size_t(count)));
  block.warps.assign(size_t(count + warpSize - 1) / warpSize, Warp{});
  block.barrier = {.members = count};
  for (int i = 0; i < count; ++i) {
    start(block.fibers[size_t(i)], i, size);
    ++block.warps[size_t(i / warpSize)].barrier.members;
  }
  for (Warp& warp : block.warps) std::fill_n(warp.slots, warpSize, kPoison);
  std::fill(block.shared.begin(), block.shared.end(), kPoison);
  // In turn from a thread and in a direction that change with every launch.
  const int first = int(launches * 7 % uint64_t(count)), step = launches % 2 ? 1 : count - 1;
  for (int running = count; running > 0;) {
    const uint64_t before = openings();
    const int running_before = running;
    int i = first;
    for (int n = 0; n < count; ++n, i = (i + step) % count) {
      Fiber& fiber = block.fibers[size_t(i)];
      if (fiber.done) continue;
      resume(fiber);
      if (block.failure) std::rethrow_exception(std::exchange(block.failure, nullptr));
      running -= fiber.done;
    }
    CHECK(running < running_before || openings() > before,
          "{} threads of block ({}, {}, {}) wait at barriers that the others never reach", running, blockIdx.x,
          blockIdx.y, blockIdx.z);
  }
}

}  // namespace

void run_grid(dim3 grid, dim3 size, size_t shared_bytes, bool early, const std::function<void()>& thread) {
  const size_t threads = size_t{size.x} * size.y * size.z;
  CHECK(threads >= 1 && threads <= 1024, "{} threads a block; allowed: 1 to 1024", threads);
  CHECK(grid.x >= 1 && grid.y >= 1 && grid.z >= 1 && grid.x <= 0x7fffffff && grid.y <= 65535 && grid.z <= 65535,
        "a grid of ({}, {}, {})", grid.x, grid.y, grid.z);
  CHECK(shared_bytes <= 227 << 10, "{} bytes of shared memory; a block has 227 KiB", shared_bytes);
  block.thread = &thread;
  block.shared.resize((shared_bytes + 7) / 8);
  gridDim = grid, blockDim = size;
  ++launches;
  for (blockIdx.z = 0; blockIdx.z < grid.z; ++blockIdx.z)
    for (blockIdx.y = 0; blockIdx.y < grid.y; ++blockIdx.y)
      for (blockIdx.x = 0; blockIdx.x < grid.x; ++blockIdx.x) {
        block.waits = 0;
        run_block(size);
        CHECK(!early || block.waits == threads, "{} of {} threads of block ({}, {}, {}) waited for the kernel before",
              block.waits, threads, blockIdx.x, blockIdx.y, blockIdx.z);
      }
}

void wait_for_previous() { ++block.waits; }

void* dynamic_shared() { return block.shared.data(); }
void block_barrier() { wait(block.barrier); }
void warp_barrier() { wait(current_warp().barrier); }
uint64_t* lane_slots() { return current_warp().slots; }
LaneRegisters* lane_registers() { return current_warp().registers; }
int lane() { return block.current->linear % warpSize; }

unsigned ballot(bool bit) {
  lane_slots()[lane()] = bit;
  warp_barrier();
  unsigned bits = 0;
  for (int i = 0; i < warpSize; ++i) bits |= unsigned(lane_slots()[i] == 1) << i;
  warp_barrier();
  return bits;
}

void start_copy(void* to, const void* from, size_t bytes) { block.current->copies.push_back({to, from, bytes}); }
void end_copy_group() { block.current->copies.push_back({}); }

void wait_for_copies(int groups_left) {
  std::vector<PendingCopy>& copies = block.current->copies;
  const auto ends = std::count_if(copies.begin(), copies.end(), [](const PendingCopy& c) { return c.bytes == 0; });
  auto next = copies.begin();
  for (auto left = ends; left > groups_left; ++next) {
    if (next->bytes == 0)
      --left;
    else if (next->from)
      std::memcpy(next->to, next->from, next->bytes);
    else
      std::memset(next->to, 0, next->bytes);
  }
  copies.erase(copies.begin(), next);
}

}  // namespace tangram::emulator

// --- memory ---

struct DeviceMapping {
  void* base;
  size_t bytes;  // that may be touched
  size_t mapped;
};
static std::map<void*, DeviceMapping> allocations;  // by the address given out
static std::mutex device;                           // held by the host thread whose work is done, or that allocates

// Lets everybody touch the memory of the device, or nobody.
static void protect_device_memory(int protection) {
  for (const auto& [p, mapping] : allocations)
    if (mapping.bytes > 0) mprotect(mapping.base, mapping.bytes, protection);
}

const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaErrorMemoryAllocation           ? "out of memory"
         : error == cudaErrorStreamCaptureUnsupported ? "not while recording"
         : error == cudaSuccess                       ? "no error"
                                                      : "invalid value";
}

cudaError_t cudaMalloc(void** p, size_t bytes) {
  if (tangram::emulator::recording()) return cudaErrorStreamCaptureUnsupported;
  const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  const size_t used = (bytes + 255) / 256 * 256, mapped = (used + page - 1) / page * page + page;
  void* base = mmap(nullptr, mapped, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (base == MAP_FAILED) return cudaErrorMemoryAllocation;
  const std::lock_guard lock(device);
  *p = static_cast<char*>(base) + mapped - page - used;
  allocations[*p] = {base, mapped - page, mapped};
  return cudaSuccess;
}

cudaError_t cudaFree(void* p) {
  if (!p) return cudaSuccess;
  const std::lock_guard lock(device);
  const auto found = allocations.find(p);
  if (found == allocations.end()) return cudaErrorInvalidValue;
  munmap(found->second.base, found->second.mapped);
  allocations.erase(found);
  return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t* free_bytes, size_t* total_bytes) {
  *free_bytes = *total_bytes = size_t{16} << 30;
  return cudaSuccess;
}

// --- graphs: what was asked for, to be done later ---

struct CUgraph_st {
  std::vector<std::function<void()>> work;
};
struct CUgraphExec_st : CUgraph_st {};

static thread_local std::unique_ptr<CUgraph_st> recorded;  // while this thread is recording

void tangram::emulator::queue(std::function<void()> work) {
  if (recorded) return recorded->work.push_back(std::move(work));
  const std::lock_guard lock(device);
  struct Access {
    Access() { protect_device_memory(PROT_READ | PROT_WRITE); }
    ~Access() { protect_device_memory(PROT_NONE); }
  } access;
  work();
}

bool tangram::emulator::recording() { return recorded != nullptr; }

cudaError_t cudaStreamBeginCapture(cudaStream_t, cudaStreamCaptureMode) {
  if (recorded) return cudaErrorStreamCaptureUnsupported;
  recorded = std::make_unique<CUgraph_st>();
  return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t* graph) {
  *graph = recorded.release();
  return *graph ? cudaSuccess : cudaErrorInvalidValue;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long) {
  *executable = new CUgraphExec_st{*graph};
  return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t) {
  for (const auto& work : executable->work) tangram::emulator::queue(work);
  return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) { return delete graph, cudaSuccess; }
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) { return delete executable, cudaSuccess; }

namespace tangram::cuda {

void* allocate(int64_t bytes) {
  void* p = nullptr;
  CHECK(cudaMalloc(&p, size_t(bytes)) == cudaSuccess, "no {} bytes left", bytes);
  return p;
}
void release(void* p) noexcept { cudaFree(p); }
MemoryState memory_state() {
  size_t free_bytes = 0, total_bytes = 0;
  cudaMemGetInfo(&free_bytes, &total_bytes);
  return {int64_t(free_bytes), int64_t(total_bytes)};
}

AddressRange::AddressRange(int64_t bytes) : reserved_(bytes) {
  base_ = mmap(nullptr, size_t(bytes), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  CHECK(base_ != MAP_FAILED, "no {} bytes of address space left", bytes);
  const std::lock_guard lock(device);
  allocations[base_] = {base_, 0, size_t(bytes)};
}
AddressRange::~AddressRange() { cudaFree(base_); }

int64_t AddressRange::commit(int64_t bytes) {
  const int64_t page = sysconf(_SC_PAGESIZE), end = (bytes + page - 1) / page * page;
  CHECK(bytes <= reserved_, "{} bytes of a range of {}", bytes, reserved_);
  const std::lock_guard lock(device);
  allocations.at(base_).bytes = size_t(end);
  return committed_ = end;
}

}  // namespace tangram::cuda
