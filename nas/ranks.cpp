#include "nas/ranks.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <mutex>
#include <sstream>
#include <thread>

#include "nas/digest.h"
#include "nas/units.h"

namespace tangram {

constexpr int kAnswerTag = 100, kWorkTag = 101;
constexpr auto kSignOfLife = std::chrono::seconds(2);

// The first character of messages.
constexpr char kWorking = 'w', kAnswer = 'a';

/// Sends ranks a sign of life every few seconds until it is destroyed: the leader all others, the others the leader.
class SignsOfLife {
 public:
  SignsOfLife(Communicator& world, int tag)
      : thread_([this, &world, tag] {
          std::unique_lock lock(mutex_);
          const int first = leads(world) ? 1 : 0, last = leads(world) ? world.size() : 1;
          try {
            while (!stop_.wait_for(lock, kSignOfLife, [this] { return done_; }))
              for (int r = first; r < last; ++r) world.send(std::string(1, kWorking), r, tag).wait();
          } catch (const Error&) {  // the rank itself meets it at its next message
          }
        }) {}
  ~SignsOfLife() {
    {
      const std::lock_guard lock(mutex_);
      done_ = true;
    }
    stop_.notify_one();
    thread_.join();
  }

 private:
  std::mutex mutex_;
  std::condition_variable stop_;
  bool done_ = false;
  std::thread thread_;
};

namespace {

std::string wait_for_answer(Communicator& world) {
  while (true) {
    std::string message = world.receive_string(0, kAnswerTag);
    if (message[0] == kWorking) continue;
    const std::string text = message.substr(1);
    if (message[0] == kAnswer) return text;
    throw Error(text, static_cast<Failure>(message[0] - '0'));
  }
}

std::string host_name() {
  char host[256] = {};
  gethostname(host, sizeof host - 1);
  return host;
}

/// Processors that this process may run on.
int64_t allowed_processors() {
  cpu_set_t set;
  return sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
}

}  // namespace

void choose_gpu_of_rank() {
  const char* place = nullptr;
  for (const char* name : {"OMPI_COMM_WORLD_LOCAL_RANK", "SLURM_LOCALID"})
    if (!place) place = std::getenv(name);
  const std::optional<int64_t> local = place ? parse_count(place) : std::nullopt;
  if (!local) return;
  std::vector<std::string> visible;
  if (const char* list = std::getenv("CUDA_VISIBLE_DEVICES")) {
    std::istringstream in(list);
    for (std::string gpu; std::getline(in, gpu, ',');) visible.push_back(gpu);
    if (visible.size() < 2) return;  // the launcher has chosen
  }
  const std::string own =
      visible.empty() ? std::to_string(*local) : visible[static_cast<size_t>(*local) % visible.size()];
  setenv("CUDA_VISIBLE_DEVICES", own.c_str(), 1);
}

std::string answer_of_leader(Communicator& world, const std::function<std::string()>& work) {
  if (world.size() == 1) return work();
  if (!leads(world)) return wait_for_answer(world);
  const auto tell = [&](char kind, const std::string& text) {
    for (int r = 1; r < world.size(); ++r) world.send(kind + text, r, kAnswerTag).wait();
  };
  try {
    std::string answer;
    {
      const SignsOfLife signs(world, kAnswerTag);
      answer = work();
    }
    tell(kAnswer, answer);
    return answer;
  } catch (const Error& e) {
    tell(static_cast<char>('0' + static_cast<int>(e.failure)), e.what());
    throw;
  }
}

SharedWork::SharedWork(Communicator& world)
    : world_(world), signs_(world.size() > 1 ? std::make_unique<SignsOfLife>(world, kWorkTag) : nullptr) {}

SharedWork::~SharedWork() = default;

void SharedWork::finish() {
  if (world_.size() == 1) return;
  const auto wait_for = [&](int rank) {
    while (world_.receive_string(rank, kWorkTag)[0] == kWorking) continue;
  };
  const auto tell = [&](int rank) { world_.send(std::string(1, kAnswer), rank, kWorkTag).wait(); };
  if (leads(world_)) {
    for (int r = 1; r < world_.size(); ++r) wait_for(r);
    signs_.reset();
    for (int r = 1; r < world_.size(); ++r) tell(r);
  } else {
    signs_.reset();
    tell(0);
    wait_for(0);
  }
}

void check_same_run(Communicator& world, const SearchConfig& config) {
  if (world.size() == 1) return;
  world.same_everywhere(fingerprint("/proc/self/exe"), "digest of the program");
  Digest digest;
  for (const auto& [key, text] : config_sections(config)) digest.add(key + ": " + text + "\n");
  world.same_everywhere(digest.text(), "digest of the config, teacher and text");
  world.same_everywhere(config.run_dir.string(), "run directory");
}

int64_t ranks_on_node(Communicator& world) {
  const std::string mine = host_name();
  const std::vector<std::string> hosts = world.gather(mine);
  return std::count(hosts.begin(), hosts.end(), mine);
}

int64_t threads_of_rank(Communicator& world, int64_t threads) {
  if (world.size() == 1 || threads > 0) return threads;
  std::string place = host_name();
  cpu_set_t set;
  sched_getaffinity(0, sizeof set, &set);
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu)
    if (CPU_ISSET(cpu, &set)) place += fmt::format(" {}", cpu);
  const std::vector<std::string> places = world.gather(place);  // the same for those that share processors
  const int64_t sharing = std::count(places.begin(), places.end(), place);
  return std::max<int64_t>(1, allowed_processors() / sharing);
}

}  // namespace tangram
