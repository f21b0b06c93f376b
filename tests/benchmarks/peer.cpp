#include "tests/benchmarks/peer.h"

#include <fmt/core.h>

#include <cstdlib>
#include <sstream>

#include "kernels/error.h"

namespace tangram {

static PeerTime time_peer(const std::string& python, const std::string& work, DType dtype, int threads) {
  const std::string command =
      fmt::format("'{}' '{}/peer_torch.py' {} {} {}", python, TANGRAM_BENCHMARKS_DIR, work, name_of(dtype), threads);
  std::FILE* pipe = popen(command.c_str(), "r");
  CHECK(pipe, "{} does not start", command);
  char line[128] = "", name[64] = "";
  const bool has_line = std::fgets(line, sizeof line, pipe);
  double milliseconds = 0;
  const int read = std::sscanf(line, "%63[^:]: %lf ms", name, &milliseconds);
  CHECK(pclose(pipe) == 0 && has_line && read == 2, "{} failed", command);
  return {name, milliseconds * 1e-3};
}

std::vector<PeerTime> time_peers(const std::string& work, DType dtype, int threads) {
  std::vector<PeerTime> times;
  const char* peers = std::getenv("TANGRAM_PEERS");
  std::istringstream pythons(peers ? peers : "");
  for (std::string python; std::getline(pythons, python, ':');)
    times.push_back(time_peer(python, work, dtype, threads));
  return times;
}

void print_peers(const std::vector<PeerTime>& peers, double seconds) {
  if (peers.empty()) fmt::print("  peer: none; TANGRAM_PEERS names Pythons that have PyTorch\n");
  for (const PeerTime& p : peers)
    fmt::print("  peer: {:<14} {:8.1f} ms, this is {:.2f} times as fast\n", p.name, p.seconds * 1e3,
               p.seconds / seconds);
}

}  // namespace tangram
