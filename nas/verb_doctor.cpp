#include <sched.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <cmath>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <thread>

#include "blocks/file.h"
#include "kernels/cuda_devices.h"
#include "nas/digest.h"
#include "nas/model_verbs.h"
#include "nas/ranks.h"
#include "nas/table.h"
#include "nas/units.h"

namespace tangram {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;
using Clock = std::chrono::steady_clock;

constexpr int kTag = 300;
constexpr double kFilePatience = 10;     // seconds until a file of another node has to be seen
constexpr double kLargestSkew = 5;       // seconds between two clocks
constexpr int64_t kLinkBytes = 1 << 24;  // of a message that measures bandwidth

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

double wall_clock() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

/// The MPI library that this process has opened; empty if none.
std::string mpi_library() {
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    const size_t name = line.find("/libmpi");
    if (name != std::string::npos) return fs::path(line.substr(line.find('/'))).string();
  }
  return "";
}

std::string launcher_name() {
  if (std::getenv("OMPI_COMM_WORLD_SIZE") && !std::getenv("SLURM_STEP_ID")) return "mpirun";
  if (std::getenv("SLURM_STEP_ID")) return "srun";
  return std::getenv("OMPI_COMM_WORLD_SIZE") ? "mpirun" : "none";
}

/// What a rank knows without the others.
Json about_this_rank(int threads) {
  char host[256] = {};
  gethostname(host, sizeof host - 1);
  cpu_set_t set;
  std::string processors;
  int64_t count = 0;
  if (sched_getaffinity(0, sizeof set, &set) == 0) {
    count = CPU_COUNT(&set);
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu)
      if (CPU_ISSET(cpu, &set)) processors += fmt::format("{}{}", processors.empty() ? "" : ",", cpu);
  }
  const char* node = std::getenv("SLURMD_NODENAME");
  Json json = {{"host", host},         {"node", node ? node : host},
               {"processors", count},  {"processor_numbers", processors},
               {"threads", threads},   {"program", fingerprint("/proc/self/exe")},
               {"gpus", Json::array()}};
  for (const CudaDevice& gpu : cuda_devices()) json["gpus"].push_back(gpu.name);
  return json;
}

/// A job, or this process alone, looked over by all its ranks together.
class Examination {
 public:
  Examination(Communicator& world, const fs::path& folder, int threads)
      : world_(world), folder_(folder), threads_(static_cast<int>(threads_of_rank(world, threads))) {
    const int processors = int(std::thread::hardware_concurrency());
    if (threads_ == 0) threads_ = processors;
  }

  /// Rank 0 has all of it.
  Json run() {
    world_.set_label("doctor");
    look_at_ranks();
    look_at_folder();
    if (world_.size() > 1) {
      measure_links();
      compare_clocks();
    }
    result_["problems"] = problems_;
    return result_;
  }

 private:
  void problem(std::string text) { problems_.push_back(std::move(text)); }

  void look_at_ranks() {
    for (const std::string& text : world_.gather(about_this_rank(threads_).dump())) ranks_.push_back(Json::parse(text));
    result_ = {{"launcher", launcher_name()}, {"mpi", mpi_library()}, {"ranks", ranks_}};
    std::map<std::string, int64_t> on_node, threads, gpus;
    std::map<std::string, std::set<std::string>> processors;
    std::string others;
    for (size_t r = 0; r < ranks_.size(); ++r) {
      const Json& rank = ranks_[r];
      const std::string node = rank["node"];
      ++on_node[node], threads[node] += rank["threads"].get<int64_t>();
      gpus[node] = std::max<int64_t>(gpus[node], std::ssize(rank["gpus"]));
      std::istringstream numbers(rank["processor_numbers"].get<std::string>());
      for (std::string cpu; std::getline(numbers, cpu, ',');) processors[node].insert(cpu);
      if (rank["program"] != ranks_[0]["program"]) others += fmt::format(" {}", r);
    }
    for (const auto& [node, count] : on_node) {
      if (threads[node] > std::ssize(processors[node]))
        problem(
            fmt::format("{}: {} threads of {} ranks share {} processors; give a rank fewer (--threads, or "
                        "cpus_per_rank in site.yaml), or start fewer ranks",
                        node, threads[node], count, processors[node].size()));
      if (gpus[node] > 0 && gpus[node] < count)
        problem(fmt::format("{}: {} ranks and {} GPUs to be seen; start one rank a GPU (ranks_per_node in site.yaml)",
                            node, count, gpus[node]));
    }
    if (!others.empty())
      problem(fmt::format("ranks{} run another program than rank 0; start all from one shared folder", others));
    const char* tasks = std::getenv("SLURM_NTASKS");
    if (tasks && parse_count(tasks).value_or(1) != world_.size())
      problem(
          fmt::format("the job has {} tasks, and {} ranks have found each other; start with srun or mpirun, and look "
                      "whether launcher in site.yaml is one that this MPI was built for",
                      tasks, world_.size()));
  }

  /// Every rank looks for a file that rank 0 writes.
  void look_at_folder() {
    const fs::path path = folder_ / ".tangram-doctor";
    std::string content, failed;
    if (leads(world_)) {
      content = fmt::format("{} {}", getpid(), wall_clock());
      try {
        write_file_atomically(path, content);
      } catch (const Error& e) {
        failed = e.what();
      }
    }
    failed = world_.broadcast(failed, 0);
    content = world_.broadcast(content, 0);
    if (!failed.empty())
      return problem(fmt::format("rank 0: {}; give a folder with --folder that it may write", failed));
    const double took = seconds_until_seen(path, content, Clock::now());
    const std::vector<std::string> all = world_.gather(fmt::format("{}", took));
    if (leads(world_)) fs::remove(path);
    double slowest = 0;
    std::string blind;
    for (size_t r = 0; r < all.size(); ++r) {
      slowest = std::max(slowest, std::stod(all[r]));
      if (std::stod(all[r]) < 0) blind += fmt::format(" {}", r);
    }
    if (!blind.empty())
      problem(
          fmt::format("ranks{} do not see within {} s what rank 0 writes to {}; a run directory has to be on a file "
                      "system that all nodes share",
                      blind, kFilePatience, folder_.string()));
    struct statvfs disk {};
    const bool known = statvfs(folder_.c_str(), &disk) == 0;
    result_["folder"] = {{"path", folder_.string()},
                         {"seen_after_seconds", slowest},
                         {"free_bytes", known ? double(disk.f_bavail) * double(disk.f_frsize) : 0}};
  }

  static double seconds_until_seen(const fs::path& path, const std::string& content, Clock::time_point start) {
    while (seconds_since(start) < kFilePatience) {
      std::ifstream file(path);
      std::string found;
      if (std::getline(file, found) && found == content) return seconds_since(start);
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return -1;
  }

  /// Half a round trip, in seconds, of so many bytes between this rank and its peer; the best of `rounds`.
  double half_round(int peer, bool first, Tensor x, int rounds) {
    double best = INFINITY;
    for (int i = 0; i < rounds; ++i) {
      const auto start = Clock::now();
      if (first) world_.send(x, peer, kTag).wait();
      world_.receive(x, peer, kTag).wait();
      if (!first) world_.send(x, peer, kTag).wait();
      best = std::min(best, seconds_since(start) / 2);
    }
    return best;
  }

  /// Between each rank and the next, one pair after the other, so that none slows another.
  void measure_links() {
    constexpr int kShortRounds = 50, kLongRounds = 4;
    std::vector<char> bytes(size_t{kLinkBytes});
    std::string mine;
    for (int r = 0; r + 1 < world_.size(); ++r) {
      const bool first = world_.rank() == r;
      if (first || world_.rank() == r + 1) {
        const int peer = first ? r + 1 : r;
        auto* data = reinterpret_cast<uint8_t*>(bytes.data());
        const double latency = half_round(peer, first, view_of(data, 1, 1), kShortRounds);
        const double transfer = half_round(peer, first, view_of(data, 1, kLinkBytes), kLongRounds);
        if (first)
          mine = Json{{"from", r},
                      {"to", r + 1},
                      {"latency_seconds", latency},
                      {"bytes_per_second", double(kLinkBytes) / transfer}}
                     .dump();
      }
      world_.barrier();
    }
    result_["links"] = Json::array();
    for (const std::string& text : world_.gather(mine))
      if (!text.empty()) result_["links"].push_back(Json::parse(text));
    check_links();
  }

  void check_links() {
    constexpr double kSlow = 0.25;  // of the median link of its kind
    std::map<bool, std::vector<double>> rates;
    const auto inside = [&](const Json& link) {
      return ranks_[link["from"].get<size_t>()]["node"] == ranks_[link["to"].get<size_t>()]["node"];
    };
    for (const Json& link : result_["links"]) rates[inside(link)].push_back(link["bytes_per_second"]);
    for (auto& [kind, all] : rates) std::sort(all.begin(), all.end());
    for (const Json& link : result_["links"]) {
      const std::vector<double>& alike = rates[inside(link)];
      const double rate = link["bytes_per_second"], median = alike[alike.size() / 2];
      if (rate < kSlow * median)
        problem(
            fmt::format("from rank {} to rank {}: {}/s, and half of such links do {}/s; look at network_interface in "
                        "site.yaml, or leave that node out (sbatch --exclude)",
                        link["from"].get<int>(), link["to"].get<int>(), format_bytes(rate), format_bytes(median)));
    }
  }

  /// Cristian's algorithm: a clock is read in the middle of the shortest round trip.
  void compare_clocks() {
    constexpr int kRounds = 20;
    std::vector<double> skews(size_t(world_.size()), 0);
    for (int r = 1; r < world_.size(); ++r) {
      double shortest = INFINITY;
      for (int i = 0; i < kRounds; ++i) {
        double there = 0;
        if (leads(world_)) {
          const double start = wall_clock();
          world_.send(view_of(reinterpret_cast<uint8_t*>(&there), 1, 1), r, kTag).wait();
          world_.receive(view_of(reinterpret_cast<uint8_t*>(&there), 1, sizeof there), r, kTag).wait();
          const double end = wall_clock();
          if (end - start >= shortest) continue;
          shortest = end - start, skews[size_t(r)] = there - (start + end) / 2;
        } else if (world_.rank() == r) {
          world_.receive(view_of(reinterpret_cast<uint8_t*>(&there), 1, 1), 0, kTag).wait();
          there = wall_clock();
          world_.send(view_of(reinterpret_cast<uint8_t*>(&there), 1, sizeof there), 0, kTag).wait();
        }
      }
    }
    result_["clock_skew_seconds"] = skews;
    for (size_t r = 0; r < skews.size(); ++r)
      if (std::abs(skews[r]) > kLargestSkew)
        problem(fmt::format("the clock of rank {} ({}) differs from rank 0's by {:.1f} s; its node needs NTP", r,
                            ranks_[r]["node"].get<std::string>(), skews[r]));
  }

  Communicator& world_;
  const fs::path folder_;
  int threads_;
  std::vector<Json> ranks_, problems_;
  Json result_;
};

std::string text_of(const Json& found) {
  const std::string mpi = found["mpi"];
  std::string text = fmt::format("{} ranks, launcher {}, MPI {}\n\n", found["ranks"].size(),
                                 found["launcher"].get<std::string>(), mpi.empty() ? "not used" : mpi);
  Table ranks{.header = {"rank", "node", "host", "processors", "threads", "GPUs", "clock"}, .rows = {}};
  for (size_t r = 0; r < found["ranks"].size(); ++r) {
    const Json& rank = found["ranks"][r];
    std::string gpus =
        rank["gpus"].empty() ? "none" : fmt::format("{} x {}", rank["gpus"].size(), rank["gpus"][0].get<std::string>());
    ranks.rows.push_back(
        {std::to_string(r), rank["node"], rank["host"], std::to_string(rank["processors"].get<int64_t>()),
         std::to_string(rank["threads"].get<int64_t>()), gpus,
         found.contains("clock_skew_seconds") ? fmt::format("{:+.4f} s", found["clock_skew_seconds"][r].get<double>())
                                              : "-"});
  }
  text += format_table(ranks);
  if (found.contains("links")) {
    Table links{.header = {"link", "latency", "bandwidth"}, .rows = {}};
    for (const Json& link : found["links"])
      links.rows.push_back({fmt::format("rank {} to {}", link["from"].get<int>(), link["to"].get<int>()),
                            format_seconds(link["latency_seconds"]), format_bytes(link["bytes_per_second"]) + "/s"});
    text += "\n" + format_table(links);
  }
  if (found.contains("folder"))
    text += fmt::format(
        "\n{}: every rank sees what rank 0 writes after {}, {} free\n", found["folder"]["path"].get<std::string>(),
        format_seconds(found["folder"]["seen_after_seconds"]), format_bytes(found["folder"]["free_bytes"]));
  if (found["problems"].empty()) return text + "\nNothing is wrong.\n";
  text += "\nWhat is wrong\n";
  for (const Json& problem : found["problems"]) text += fmt::format("- {}\n", problem.get<std::string>());
  return text;
}

/// How many problems there are.
size_t examine(const fs::path& folder, const VerbInput& in, Communicator& world) {
  const Json found = Examination(world, folder, in.threads).run();
  if (leads(world)) fmt::print(in.out, "{}", in.json ? found.dump(2) + "\n" : text_of(found));
  world.barrier();
  return found["problems"].size();
}

void run_doctor(const std::string& folder, const VerbInput& in) {
  size_t problems = 0;
  bool leader = true;
  {
    Communicator world = Communicator::world();
    leader = leads(world);
    try {
      problems = examine(fs::weakly_canonical(folder), in, world);
    } catch (const std::exception& e) {
      if (world.size() > 1) world.abort(e.what());  // the others wait for this one
      throw;
    }
  }
  if (problems > 0 && leader)
    throw Error(problems == 1 ? "one thing is wrong" : fmt::format("{} things are wrong", problems));
}

}  // namespace

std::function<void(const VerbInput&)> add_doctor(CLI::App& app) {
  const auto folder = std::make_shared<std::string>(".");
  app.add_option("--folder", *folder, "Folder that all nodes have to share: where runs will be")->capture_default_str();
  return [folder](const VerbInput& in) { run_doctor(*folder, in); };
}

}  // namespace tangram
