#include "kernels/communicator.h"

#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <utility>

#include "kernels/communicator_thread.h"

namespace tangram {
namespace fs = std::filesystem;
namespace {

/// The number in an environment variable; `otherwise` where there is none.
template <class T>
T number(const char* variable, T otherwise) {
  const char* text = std::getenv(variable);
  if (!text) return otherwise;
  T value{};
  const auto [end, error] = std::from_chars(text, text + std::strlen(text), value);
  if (error != std::errc() || *end != 0) throw bad_input("{}='{}' is no number", variable, text);
  return value;
}

/// Whether a launcher has started this process among others, as far as the environment tells.
bool is_launched() {
  // Of Open MPI's mpirun, MPICH's, and Slurm's and others' PMI 2; where they say that there is one, MPI is not needed.
  for (const char* size : {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE"})
    if (std::getenv(size)) return number(size, 1) > 1;
  const int slurm_tasks = std::getenv("SLURM_PROCID") ? number("SLURM_STEP_NUM_TASKS", 1) : 1;
  for (const char* rank : {"PMIX_RANK", "PMI_RANK"})
    if (std::getenv(rank)) return !std::getenv("SLURM_STEP_NUM_TASKS") || slurm_tasks > 1;
  if (slurm_tasks > 1)
    throw bad_input(
        "srun has started {} tasks, but none of them can find the others: start them with "
        "`srun --mpi=pmix` (`srun --mpi=list` shows what this cluster has) or with mpirun",
        slurm_tasks);
  return false;
}

std::string module_path() {
  if (const char* path = std::getenv("TANGRAM_MPI_MODULE")) return path;
  const fs::path folder = fs::read_symlink("/proc/self/exe").parent_path();
  const std::vector<fs::path> paths = {folder / "libtangram_mpi.so", folder / "../lib/libtangram_mpi.so"};
  for (const fs::path& path : paths)
    if (fs::exists(path)) return path;
  throw Error(
      fmt::format("this process is one of several, which talk over MPI, but there is no module for it at {} or "
                  "{}: build it against the machine's MPI as kernels/mpi/module.h says (in a build of Tangram: "
                  "install libopenmpi-dev, then `cmake --build build --target tangram_mpi`), and put it there "
                  "or name it in TANGRAM_MPI_MODULE",
                  paths[0].string(), paths[1].lexically_normal().string()));
}

void check_memory(Tensor x) {
  CHECK(x.contiguous(), "a tensor ({}, {}) whose rows are {} apart; only a contiguous one is sent", x.rows, x.cols,
        x.stride);
}

}  // namespace

// --- Pending ---

Pending::Pending(std::shared_ptr<CommunicationThread> thread, std::shared_ptr<Operation> operation)
    : thread_(std::move(thread)), operation_(std::move(operation)) {}

Pending::~Pending() {
  if (!operation_) return;
  try {
    if (std::uncaught_exceptions() > 0 && !finished())
      thread_->fail(fmt::format("{}: given up because of an error", operation_->describe()));
    else
      wait();
  } catch (const std::exception&) {  // the thread keeps it for the next operation
  }
}

Pending& Pending::operator=(Pending&& other) noexcept {
  std::swap(thread_, other.thread_);
  std::swap(operation_, other.operation_);
  return *this;
}

void Pending::wait() {
  if (const auto operation = std::move(operation_)) thread_->wait(*operation);
}

bool Pending::finished() const { return !operation_ || thread_->finished(*operation_); }

// --- the group ---

Communicator::Communicator() : group_(std::make_shared<Group>()) {}

Communicator Communicator::world(const Options& options) {
  if (!is_launched()) return {};
  static bool called = false;  // MPI starts once in a process
  CHECK(!std::exchange(called, true), "a process has one world: copy it");
  const double timeout_s = number("TANGRAM_COMM_TIMEOUT", options.timeout_s);
  if (!(timeout_s > 0)) throw bad_input("a timeout of {} s for communication: must be positive", timeout_s);

  auto group = std::make_shared<Group>();
  group->thread = std::make_shared<CommunicationThread>(module_path(), timeout_s);
  Communicator world(group);
  world.start(std::make_shared<Operation>(group->ranks, "start of MPI", 0), [](Operation&) { return false; }).wait();

  auto ranks = std::make_shared<RankGroup>();
  ranks->mpi = group->thread->mpi();
  ranks->handle = group->thread->world();
  ranks->rank = ranks->mpi->rank(ranks->handle);
  ranks->job_size = ranks->mpi->size(ranks->handle);
  ranks->members.clear();
  for (int r = 0; r < ranks->job_size; ++r) ranks->members.push_back(r);
  group->ranks = std::move(ranks);
  return world;
}

int Communicator::rank() const { return group_->ranks->rank; }
int Communicator::size() const { return group_->ranks->size(); }

void Communicator::set_label(std::string label) {
  if (group_->thread) group_->thread->set_label(std::move(label));
}

Communicator Communicator::split(int colour, int key) {
  CHECK(colour >= 0, "colour {}: must not be negative", colour);
  if (size() == 1) return *this;
  // MPI's own split has no timeout: all are to be here before.
  const std::vector<std::string> answers = gather(fmt::format("{} {}", colour, key));
  auto ranks = std::make_shared<RankGroup>(*group_->ranks);
  const auto split_mpi = [ranks, colour, key](Operation& op) {
    const RankGroup& all = *op.ranks;
    if (all.mpi->split(all.handle, colour, key, &ranks->handle) != 0) throw Error(op.describe() + ": MPI cannot split");
    ranks->rank = all.mpi->rank(ranks->handle);
    return false;
  };
  start(collective("split"), split_mpi).wait();

  std::vector<std::pair<int, int>> order;  // of the members: key, rank here
  for (int r = 0; r < size(); ++r) {
    const size_t space = answers[size_t(r)].find(' ');
    if (std::stoi(answers[size_t(r)].substr(0, space)) == colour)
      order.emplace_back(std::stoi(answers[size_t(r)].substr(space)), r);
  }
  std::sort(order.begin(), order.end());
  ranks->members.clear();
  for (const auto& [_, r] : order) ranks->members.push_back(group_->ranks->members[size_t(r)]);

  auto part = std::make_shared<Group>();
  part->thread = group_->thread;
  part->ranks = std::move(ranks);
  return Communicator(part);
}

void Communicator::abort(std::string_view text, int exit_code) {
  const RankGroup& ranks = *group_->ranks;
  const std::string who = fmt::format("rank {} of {}: ", ranks.members[size_t(ranks.rank)], ranks.job_size);
  const bool is_said = ranks.job_size == 1 || text.starts_with(who);  // by errors of communication
  const std::string line = fmt::format("tangram: {}{}", is_said ? "" : who, text);
  if (group_->thread) group_->thread->abort(line, exit_code);
  fmt::print(stderr, "{}\n", line);
  std::fflush(nullptr);
  _exit(exit_code);
}

// --- messages ---

Pending Communicator::start(std::shared_ptr<Operation> operation, std::function<bool(Operation&)> advance) {
  operation->advance = std::move(advance);
  group_->thread->submit(operation);
  return {group_->thread, std::move(operation)};
}

void Communicator::check_message(const Message& m) const {
  const bool is_peer = m.peer >= 0 && m.peer < size() && m.peer != rank();
  CHECK(is_peer, "rank {} of {}: a message {} rank {}: must be another rank of the group", rank(), size(),
        m.kind == Message::sent ? "to" : "from", m.peer);
  CHECK(m.tag >= 0 && m.tag < kTags, "rank {} of {}: a message with tag {}: a tag must be 0 to {}", rank(), size(),
        m.tag, kTags - 1);
  check_memory(m.x);
}

std::string Communicator::describe(const Message& m) const {
  return fmt::format("{} bytes {} rank {}, tag {}", m.x.bytes(), m.kind == Message::sent ? "to" : "from",
                     group_->ranks->members[size_t(m.peer)], m.tag);
}

Pending Communicator::exchange(const std::vector<Message>& messages) {
  std::string name;
  bool on_gpu = false;
  for (const Message& m : messages) {
    check_message(m);
    name += (name.empty() ? "" : "; ") + describe(m);
    on_gpu |= m.x.device == Device::cuda;
    CHECK(m.x.device == messages[0].x.device, "messages of the CPU and the GPU do not start together");
  }
  if (messages.empty()) return {};
  auto operation = std::make_shared<Operation>(group_->ranks, std::move(name), 0);
  if (on_gpu) return exchange_on_gpu(std::move(operation), messages);
  return start(std::move(operation), [messages, started = false](Operation& op) mutable {
    if (std::exchange(started, true)) return false;
    for (const Message& m : messages) op.start(m.kind, m.x.data, m.x.bytes(), m.peer, m.tag);
    return true;
  });
}

Pending Communicator::send(std::string text, int to, int tag) {
  const Message checked{Message::sent, view_of(reinterpret_cast<uint8_t*>(text.data()), 1, int64_t(text.size())), to,
                        tag};
  check_message(checked);
  auto op = std::make_shared<Operation>(group_->ranks, "text: " + describe(checked), tag);
  return start(std::move(op), [text = std::move(text), to, sent = false](Operation& o) mutable {
    if (std::exchange(sent, true)) return false;
    o.send_text(text, to);
    return true;
  });
}

std::string Communicator::receive_string(int from, int tag) {
  std::string text;
  const Message checked{Message::received, {}, from, tag};
  check_message(checked);
  auto op = std::make_shared<Operation>(
      group_->ranks, fmt::format("text from rank {}, tag {}", group_->ranks->members[size_t(from)], tag), tag);
  start(std::move(op), [&text, from, received = false](Operation& o) mutable {
    if (received) return false;
    received = o.receive_text(text, from);
    return true;
  }).wait();
  return text;
}

// --- collective operations ---

std::shared_ptr<Operation> Communicator::collective(std::string name) {
  return std::make_shared<Operation>(group_->ranks, std::move(name), kTags + group_->collectives++ % kTags);
}

std::shared_ptr<Operation> Communicator::collective(std::string name, Tensor x) {
  check_memory(x);
  return collective(std::move(name));
}

void Communicator::barrier() {
  if (size() == 1) return;
  // After the round of distance d a rank has heard of the 2 d - 1 before it (Hensgen, Finkel and Manber 1988).
  start(collective("barrier"), [distance = 1](Operation& op) mutable {
    const int size = op.ranks->size(), rank = op.ranks->rank;
    if (distance >= size) return false;
    op.receive(nullptr, 0, (rank - distance + size) % size);
    op.send(nullptr, 0, (rank + distance) % size);
    distance *= 2;
    return true;
  }).wait();
}

void Communicator::broadcast(Tensor x, int root) {
  check_memory(x);
  CHECK(root >= 0 && root < size(), "a broadcast from rank {} of {}", root, size());
  if (size() == 1 || x.size() == 0) return;
  // A binomial tree, whose edges a large tensor passes in pieces, one after the other.
  static constexpr int64_t kPiece = 4 << 20;
  const auto piece = [x](int64_t i) {
    const int64_t first = i * kPiece;
    return std::pair(static_cast<char*>(x.data) + first, std::min(kPiece, x.bytes() - first));
  };
  auto op =
      collective(fmt::format("broadcast of {} bytes from rank {}", x.bytes(), group_->ranks->members[size_t(root)]));
  if (x.device == Device::cuda) return broadcast_on_gpu(std::move(op), x, root).wait();
  start(std::move(op), [piece, pieces = ceil_div(x.bytes(), kPiece), round = int64_t{0}, root](Operation& o) mutable {
    const int size = o.ranks->size(), place = (o.ranks->rank - root + size) % size;
    const int64_t i = round++;
    if (i > pieces) return false;
    if (place > 0 && i < pieces) o.receive(piece(i).first, piece(i).second, ((place & (place - 1)) + root) % size);
    if (i > 0)
      for (int step = 1; place + step < size && (place & step) == 0; step *= 2)
        o.send(piece(i - 1).first, piece(i - 1).second, (place + step + root) % size);
    return true;
  }).wait();
}

std::string Communicator::broadcast(std::string text, int root) {
  auto bytes = int64_t(text.size());
  broadcast(view_of(&bytes, 1, 1), root);
  text.resize(size_t(bytes));
  broadcast(view_of(reinterpret_cast<uint8_t*>(text.data()), 1, bytes), root);
  return text;
}

std::vector<std::string> Communicator::gather(std::string mine) {
  std::vector<std::string> texts(static_cast<size_t>(size()));
  if (size() > 1) {
    std::vector<int64_t> sizes(texts.size());
    sizes[size_t(rank())] = int64_t(mine.size());
    start(collective(fmt::format("gather of texts, {} bytes here", mine.size())), [&,
                                                                                   round = 0](Operation& op) mutable {
      const int size = op.ranks->size(), rank = op.ranks->rank;
      for (int i = 1; i < size && round < 2; ++i) {
        const auto from = size_t((rank + size - i) % size);
        const int to = (rank + i) % size;
        if (round == 0) {
          op.receive(&sizes[from], sizeof(int64_t), int(from));
          op.send(&sizes[size_t(rank)], sizeof(int64_t), to);
        } else {
          texts[from].resize(size_t(sizes[from]));
          op.receive(texts[from].data(), sizes[from], int(from));
          op.send(mine.data(), int64_t(mine.size()), to);
        }
      }
      return round++ < 2;
    }).wait();
  }
  texts[size_t(rank())] = std::move(mine);
  return texts;
}

void Communicator::same_everywhere(const std::string& value, std::string_view what) {
  const std::vector<std::string> values = gather(value);
  std::string others;
  for (size_t r = 1; r < values.size(); ++r)
    if (values[r] != values[0]) others += fmt::format("\n  rank {}: {}", group_->ranks->members[r], values[r]);
  if (!others.empty())
    throw bad_input("{}: must be the same on every rank, but is\n  rank {}: {}{}", what, group_->ranks->members[0],
                    values[0], others);
}

}  // namespace tangram
