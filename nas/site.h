#pragma once
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace tangram {

enum class Launcher : uint8_t { srun_pmix, srun_pmi2, mpirun };
enum class ContainerKind : uint8_t { none, pyxis, apptainer };

struct Container {
  ContainerKind kind = ContainerKind::none;
  std::string image;
  std::vector<std::string> mounts;  ///< `/from:/to`
};

/// What differs between clusters: configs/site.yaml, whose comments explain the keys. An empty text is `none`.
struct Site {
  std::filesystem::path file;
  std::string partition, account, qos;
  std::string gpus;  ///< how a node's GPUs are asked for: `--gres=gpu:8`
  int64_t nodes = 1, ranks_per_node = 0, cpus_per_rank = 0;
  double memory_bytes = 0;  ///< of a node; 0: the cluster's default
  double time_limit_s = 0;
  Launcher launcher = Launcher::srun_pmix;
  std::string network_interface;
  Container container;
  std::vector<std::string> modules, setup;
  std::string scratch;
};

/// The file that `--site FILE` names; else $TANGRAM_SITE; else site.yaml beside the config; else
/// ~/.config/tangram/site.yaml. Throws Error (bad_input) naming all places if there is none.
std::filesystem::path site_file(const std::string& asked, const std::filesystem::path& config);

/// Throws Error (bad_input): unknown keys with the nearest known, all missing ones at once with what to write there,
/// and values that no shell or Slurm would take as they are meant.
Site read_site(const std::filesystem::path& file);

/// Options for sbatch that say where a job runs, on so many ranks.
std::vector<std::string> sbatch_options(const Site& site, int64_t ranks);

/// What a job script evaluates: modules, environment and setup lines, and the arrays `launcher` and `inside`, which
/// start a program on all ranks of the job.
std::string site_shell(const Site& site);

}  // namespace tangram
