#include "tests/benchmarks/peer.h"

#include <fmt/core.h>
#include <sys/wait.h>

#include <array>
#include <cstdlib>
#include <filesystem>
#include <sstream>

namespace tangram {
namespace fs = std::filesystem;

std::string benchmarks_folder() {
  std::error_code error;
  const fs::path beside = fs::read_symlink("/proc/self/exe", error).parent_path() / "../tests/benchmarks";
  return fs::exists(beside / "peer_torch.py", error) ? beside.lexically_normal().string() : TANGRAM_BENCHMARKS_DIR;
}

/// Reads "work<tab>name<tab>milliseconds" of every line.
static void run_peer(std::map<std::string, std::vector<PeerTime>>& times, const std::string& command) {
  std::FILE* pipe = popen(command.c_str(), "r");
  CHECK(pipe, "{} does not start", command);
  std::array<char, 512> line{};
  while (std::fgets(line.data(), int(line.size()), pipe)) {
    std::istringstream fields(line.data());
    std::string work, name;
    double milliseconds = 0;
    if (std::getline(fields, work, '\t') && std::getline(fields, name, '\t') && fields >> milliseconds)
      times[work].push_back({name, milliseconds * 1e-3});
  }
  const int status = pclose(pipe);
  if (status != 0) fmt::print(stderr, "peer: {} ended with code {}\n", command, WEXITSTATUS(status));
}

std::map<std::string, std::vector<PeerTime>> time_peers(const std::vector<std::string>& works,
                                                        const PeerOptions& options) {
  std::map<std::string, std::vector<PeerTime>> times;
  const char* peers = std::getenv("TANGRAM_PEERS");
  if (works.empty() || options.seconds <= 0) return times;
  std::istringstream pythons(peers ? peers : "");
  for (std::string python; std::getline(pythons, python, ':');) {
    std::string command = fmt::format(
        "timeout {} '{}' '{}/{}' --device {} --dtype {} --threads {}", options.seconds, python, benchmarks_folder(),
        options.script, options.device == Device::cuda ? "cuda" : "cpu", name_of(options.dtype), options.threads);
    for (const std::string& work : works) command += " " + work;
    run_peer(times, command);
  }
  return times;
}

}  // namespace tangram
