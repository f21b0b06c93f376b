#include "kernels/nccl.h"

#include "kernels/cuda.cuh"
#include "kernels/cuda_devices.h"
#include "kernels/shared_library.h"

#if !defined(TANGRAM_CUDA_EMULATOR) && __has_include(<nccl.h>)
#include <nccl.h>

namespace tangram::cuda {
namespace {

struct Library {
  SharedLibrary library{{fmt::format("libnccl.so.{}", NCCL_MAJOR)},
                        fmt::format("install NCCL {}, or `pip install nvidia-nccl-cu13` for the python3 that comes "
                                    "first on the PATH",
                                    NCCL_MAJOR)};
#define FUNCTION(name) decltype(&::name) name = library.function<decltype(&::name)>(#name)
  FUNCTION(ncclGetErrorString);
  FUNCTION(ncclGetUniqueId);
  FUNCTION(ncclCommInitRank);
  FUNCTION(ncclCommDestroy);
  FUNCTION(ncclCommAbort);
  FUNCTION(ncclCommGetAsyncError);
  FUNCTION(ncclGroupStart);
  FUNCTION(ncclGroupEnd);
  FUNCTION(ncclSend);
  FUNCTION(ncclRecv);
  FUNCTION(ncclBroadcast);
#undef FUNCTION
};

const Library& nccl() {
  static const Library library;
  return library;
}

#define NCCL_CHECK(call)                                                                                   \
  do {                                                                                                     \
    const ncclResult_t nccl_result = nccl().call;                                                          \
    CHECK(nccl_result == ncclSuccess, "{} ended with: {}", #call, nccl().ncclGetErrorString(nccl_result)); \
  } while (false)

/// What is there for as long as this.
class Event {
 public:
  Event() { CUDA_CHECK(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming)); }
  ~Event() { cudaEventDestroy(event_); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  operator cudaEvent_t() const { return event_; }
  bool is_done() const {
    const cudaError_t state = cudaEventQuery(event_);
    if (state == cudaErrorNotReady) return false;
    CUDA_CHECK(state);
    return true;
  }

 private:
  cudaEvent_t event_ = nullptr;
};

}  // namespace

struct NcclWork::Events {
  int device;
  Event started = {}, ended = {};
};

NcclWork::NcclWork(int device) : events_(new Events{.device = device}) {}
NcclWork::~NcclWork() = default;
bool NcclWork::has_started() const {
  CUDA_CHECK(cudaSetDevice(events_->device));  // of the thread that asks
  return events_->started.is_done();
}
bool NcclWork::is_finished() const {
  CUDA_CHECK(cudaSetDevice(events_->device));
  return events_->ended.is_done();
}

struct Nccl::State {
  Stream compute;
  int rank, device = 0;
  ncclComm_t comm = nullptr;
  Stream stream = nullptr;
  Event before = {};
  std::shared_ptr<NcclWork> work = {};
  void* scratch = nullptr;
  int64_t scratch_bytes = 0;
  int exceptions = std::uncaught_exceptions();
};

std::string why_no_nccl() {
  try {
    nccl();
  } catch (const Error& e) {
    return e.what();
  }
  return devices().empty() ? "no GPU in this machine" : "";
}

std::string Nccl::new_id() {
  ncclUniqueId id;
  NCCL_CHECK(ncclGetUniqueId(&id));
  return {id.internal, sizeof id.internal};
}

Nccl::Nccl(const std::string& id, int rank, int size, Stream compute)
    : state_(new State{.compute = compute, .rank = rank}) {
  ncclUniqueId shared;
  CHECK(id.size() == sizeof shared.internal, "an id of {} bytes for NCCL; must be {}", id.size(),
        sizeof shared.internal);
  std::memcpy(shared.internal, id.data(), id.size());
  CUDA_CHECK(cudaGetDevice(&state_->device));
  CUDA_CHECK(cudaStreamCreateWithFlags(&state_->stream, cudaStreamNonBlocking));
  NCCL_CHECK(ncclCommInitRank(&state_->comm, size, shared, rank));
}

Nccl::~Nccl() {
  State& s = *state_;
  if (s.comm && std::uncaught_exceptions() > s.exceptions)
    nccl().ncclCommAbort(s.comm);  // what is queued may wait for ranks that will not come
  else if (s.comm)
    nccl().ncclCommDestroy(s.comm);
  if (s.scratch) cudaFree(s.scratch);
  if (s.stream) cudaStreamDestroy(s.stream);
}

void Nccl::begin() {
  State& s = *state_;
  s.work = std::make_shared<NcclWork>(s.device);
  CUDA_CHECK(cudaEventRecord(s.before, s.compute));
  CUDA_CHECK(cudaStreamWaitEvent(s.stream, s.before));
  CUDA_CHECK(cudaEventRecord(s.work->events_->started, s.stream));
}

std::shared_ptr<NcclWork> Nccl::end() {
  CUDA_CHECK(cudaEventRecord(state_->work->events_->ended, state_->stream));
  return std::move(state_->work);
}

void Nccl::join(const NcclWork& work) { CUDA_CHECK(cudaStreamWaitEvent(state_->compute, work.events_->ended)); }

void Nccl::transfer(std::span<const Part> parts) {
  NCCL_CHECK(ncclGroupStart());
  for (const Part& part : parts) {
    const auto bytes = size_t(part.bytes);
    if (bytes == 0) continue;
    if (part.sent)
      NCCL_CHECK(ncclSend(part.data, bytes, ncclUint8, part.peer, state_->comm, state_->stream));
    else
      NCCL_CHECK(ncclRecv(part.data, bytes, ncclUint8, part.peer, state_->comm, state_->stream));
  }
  NCCL_CHECK(ncclGroupEnd());
}

void Nccl::broadcast(Tensor x, int root) {
  NCCL_CHECK(ncclBroadcast(x.data, x.data, size_t(x.bytes()), ncclUint8, root, state_->comm, state_->stream));
}

void Nccl::sum(Tensor out, std::span<const Tensor> parts) { tree_sum(out, parts, state_->stream); }

void* Nccl::scratch(int64_t bytes) {
  State& s = *state_;
  if (bytes > s.scratch_bytes) {
    CUDA_CHECK(cudaStreamSynchronize(s.stream));
    if (s.scratch) CUDA_CHECK(cudaFree(std::exchange(s.scratch, nullptr)));
    CUDA_CHECK(cudaMalloc(&s.scratch, size_t(bytes)));
    s.scratch_bytes = bytes;
  }
  return s.scratch;
}

std::string Nccl::failure() const {
  ncclResult_t state = ncclSuccess;
  const ncclResult_t asked = nccl().ncclCommGetAsyncError(state_->comm, &state);
  if (asked != ncclSuccess) state = asked;
  return state == ncclSuccess || state == ncclInProgress ? "" : nccl().ncclGetErrorString(state);
}

}  // namespace tangram::cuda

#else  // the emulator, and a toolkit without nccl.h

namespace tangram::cuda {

static const char* const kWhyNot = "this program was built without NCCL";

struct NcclWork::Events {};
struct Nccl::State {};
std::string why_no_nccl() { return kWhyNot; }
NcclWork::NcclWork(int) {}
NcclWork::~NcclWork() = default;
bool NcclWork::has_started() const { return false; }
bool NcclWork::is_finished() const { return false; }
std::string Nccl::new_id() { throw Error(kWhyNot); }
Nccl::Nccl(const std::string&, int, int, Stream) { throw Error(kWhyNot); }
Nccl::~Nccl() = default;
void Nccl::begin() {}
std::shared_ptr<NcclWork> Nccl::end() { return nullptr; }
void Nccl::join(const NcclWork&) {}
void Nccl::transfer(std::span<const Part>) {}
void Nccl::broadcast(Tensor, int) {}
void Nccl::sum(Tensor, std::span<const Tensor>) {}
void* Nccl::scratch(int64_t) { return nullptr; }
std::string Nccl::failure() const { return kWhyNot; }

}  // namespace tangram::cuda
#endif
