#pragma once
#include <map>
#include <string>
#include <vector>

#include "kernels/tensor.h"

namespace tangram {

/// How long another program, or another way of our own, takes for the same work.
struct PeerTime {
  std::string name;  ///< "PyTorch 2.11.0, compiled"
  double seconds = 0;
};

/// Where and how peers run.
struct PeerOptions {
  Device device;
  DType dtype;
  int threads;
  int seconds;  ///< the most that one Python may take; what it has measured until then counts
  std::string script = "peer_torch.py";
};

/// Runs a script of this folder with every Python named in the environment variable TANGRAM_PEERS, separated by ':',
/// such as /usr/bin/python3:venv/bin/python; none without it. `works` are as the script describes them
/// ("rmsnorm_forward: 16384,8192"). The result has the times of each work that was done; what went wrong is said on
/// stderr.
std::map<std::string, std::vector<PeerTime>> time_peers(const std::vector<std::string>& works,
                                                        const PeerOptions& options);

/// The folder tests/benchmarks: beside the program in a bundle (../tests/benchmarks), else where it was built.
std::string benchmarks_folder();

}  // namespace tangram
