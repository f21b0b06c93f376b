#pragma once
#include <string>
#include <vector>

#include "kernels/dtype.h"

namespace tangram {

/// How long another program takes for the same work.
struct PeerTime {
  std::string name;  ///< "PyTorch 2.9.1"
  double seconds = 0;
};

/// Runs `WORK` ("bld", "prefill" or "decode") of peer_torch.py with every Python named in the environment variable
/// TANGRAM_PEERS, separated by ':', such as /usr/bin/python3:venv/bin/python; none without it. Throws Error if one
/// fails.
std::vector<PeerTime> time_peers(const std::string& work, DType dtype, int threads);

/// One line a peer: its time and how many times as fast `seconds` is; or that there was none.
void print_peers(const std::vector<PeerTime>& peers, double seconds);

}  // namespace tangram
