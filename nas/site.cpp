#include "nas/site.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "blocks/unicode.h"
#include "nas/config_reader.h"
#include "nas/program.h"

namespace tangram {
namespace fs = std::filesystem;
namespace {

constexpr std::string_view kLauncherNames[] = {"srun --mpi=pmix", "srun --mpi=pmi2", "mpirun"};
constexpr std::string_view kContainerNames[] = {"none", "pyxis", "apptainer"};

struct RequiredKey {
  std::string_view key, what;
};
constexpr RequiredKey kRequired[] = {
    {"partition", "one that sinfo lists; none: the cluster's default"},
    {"account", "the one that pays; none: jobs need none"},
    {"gpus", "how to ask for those of a node, such as --gpus-per-node=h100:8 or --gres=gpu:8; none: processors alone"},
    {"ranks_per_node", "processes on a node: one for each GPU, or for a few processors"},
    {"cpus_per_rank", "processors for each of them"},
    {"time_limit", "of one job, such as 4 h; a job that needs longer goes on in another"},
    {"launcher", "what starts processes that find each other: srun --mpi=pmix, srun --mpi=pmi2 or mpirun"},
};

/// Keys without a value are keys that are not there.
YamlNode without_empty_keys(YamlNode map) {
  std::erase_if(map.entries, [](const YamlEntry& e) { return e.value.kind == YamlNode::Kind::null; });
  return map;
}

void check_required(const YamlNode& map, const fs::path& file) {
  std::string missing;
  for (const auto& [key, what] : kRequired)
    if (!map.find(key)) missing += fmt::format("{} {} ({})", missing.empty() ? "" : ";", key, what);
  if (!missing.empty()) throw bad_input("{}: these keys are missing:{}", file.string(), missing);
}

void check_text(const fs::path& file, std::string_view key, const std::string& text) {
  if (std::any_of(text.begin(), text.end(), [](unsigned char c) { return c < 0x20 || c == 0x7f; }))
    throw bad_input("{}: {}: a control character in '{}'; job scripts take only one line of plain text", file.string(),
                    key, printable(text));
}

void check_word(const fs::path& file, std::string_view key, const std::string& text) {
  check_text(file, key, text);
  if (text.find(' ') != std::string::npos || text.starts_with("-"))
    throw bad_input("{}: {}: found '{}'; allowed: one word, or none", file.string(), key, text);
}

/// One process drives one GPU.
void check_gpus(const Site& site) {
  if (site.gpus.empty()) return;
  check_text(site.file, "gpus", site.gpus);
  const std::string& form = site.gpus;
  const bool known = form.starts_with("--gpus-per-node=") || form.starts_with("--gres=gpu:");
  const size_t before = form.find_last_of("=:");
  const auto count = known ? parse_count(form.substr(before + 1)) : std::nullopt;
  if (!count || *count < 1 || form.find(' ') != std::string::npos)
    throw bad_input("{}: gpus: found '{}'; allowed: --gpus-per-node=8, --gpus-per-node=h100:8, --gres=gpu:8, none",
                    site.file.string(), form);
  if (*count != site.ranks_per_node)
    throw bad_input("{}: ranks_per_node: found {}, and gpus asks for {} on a node; allowed: {}, one process a GPU",
                    site.file.string(), site.ranks_per_node, *count, *count);
}

void check_container(const Site& site) {
  const Container& c = site.container;
  check_text(site.file, "container.image", c.image);
  for (const std::string& mount : c.mounts) {
    check_text(site.file, "container.mounts", mount);
    if (!mount.starts_with("/") || mount.find(',') != std::string::npos)
      throw bad_input("{}: container.mounts: found '{}'; allowed: /from or /from:/to", site.file.string(), mount);
  }
  if (c.kind != ContainerKind::none && c.image.empty())
    throw bad_input("{}: container.image is missing: the image that {} starts", site.file.string(),
                    kContainerNames[size_t(c.kind)]);
  if (c.kind == ContainerKind::pyxis && site.launcher == Launcher::mpirun)
    throw bad_input("{}: container.kind: pyxis is a part of srun, and launcher is mpirun; allowed: apptainer, none",
                    site.file.string());
}

std::string none_to_empty(const std::string& text) { return text == "none" ? "" : text; }

}  // namespace

template <class V>
static void describe(V& v, Container& c) {
  v.choice("kind", c.kind, kContainerNames);
  v.text("image", c.image);
  v.texts("mounts", c.mounts);
}

template <class V>
static void describe(V& v, Site& c) {
  v.text("partition", c.partition);
  v.text("account", c.account);
  v.text("qos", c.qos);
  v.text("gpus", c.gpus);
  v.count("nodes", c.nodes, within(1, 1 << 20));
  v.count("ranks_per_node", c.ranks_per_node, within(1, 1 << 12));
  v.count("cpus_per_rank", c.cpus_per_rank, within(1, 1 << 12));
  v.bytes("memory", c.memory_bytes, above(0));
  v.seconds("time_limit", c.time_limit_s, within(60, 366 * 86400.0));
  v.choice("launcher", c.launcher, kLauncherNames);
  v.text("network_interface", c.network_interface);
  v.section("container", c.container);
  v.texts("modules", c.modules);
  v.texts("setup", c.setup);
  v.text("scratch", c.scratch);
}

fs::path site_file(const std::string& asked, const fs::path& config) {
  if (!asked.empty()) return fs::absolute(asked);
  if (const char* named = std::getenv("TANGRAM_SITE"); named && *named) return fs::absolute(named);
  const fs::path beside = fs::absolute(config).parent_path() / "site.yaml";
  if (fs::exists(beside)) return beside;
  const char* home = std::getenv("HOME");
  const fs::path own = fs::path(home ? home : "/") / ".config/tangram/site.yaml";
  if (fs::exists(own)) return own;
  throw bad_input(
      "no description of this cluster: neither --site nor $TANGRAM_SITE names one, and neither {} nor {} is there; "
      "copy "
      "configs/site.yaml to one of these places and fill it in",
      beside.string(), own.string());
}

Site read_site(const fs::path& file) {
  const YamlNode map = without_empty_keys(read_yaml(file));
  Site site;
  site.file = file;
  ConfigReader reader(map, "", file.parent_path());
  describe(reader, site);
  reader.finish();
  check_required(map, file);
  for (std::string* text :
       {&site.partition, &site.account, &site.qos, &site.gpus, &site.network_interface, &site.scratch})
    *text = none_to_empty(*text);
  check_word(file, "partition", site.partition);
  check_word(file, "account", site.account);
  check_word(file, "qos", site.qos);
  check_word(file, "network_interface", site.network_interface);
  check_text(file, "scratch", site.scratch);
  for (const std::string& module : site.modules) check_word(file, "modules", module);
  for (const std::string& line : site.setup) check_text(file, "setup", line);
  check_gpus(site);
  check_container(site);
  return site;
}

std::vector<std::string> sbatch_options(const Site& site, int64_t ranks) {
  std::vector<std::string> options;
  const auto add = [&](std::string_view name, const std::string& value) {
    if (!value.empty()) options.push_back(fmt::format("--{}={}", name, value));
  };
  const int64_t nodes = (ranks + site.ranks_per_node - 1) / site.ranks_per_node;
  add("partition", site.partition);
  add("account", site.account);
  add("qos", site.qos);
  if (!site.gpus.empty()) options.push_back(site.gpus);
  add("nodes", std::to_string(nodes));
  if (ranks % nodes == 0)
    add("ntasks-per-node", std::to_string(ranks / nodes));
  else
    add("ntasks", std::to_string(ranks));
  add("cpus-per-task", std::to_string(site.cpus_per_rank));
  if (site.memory_bytes > 0) add("mem", fmt::format("{:.0f}M", std::ceil(site.memory_bytes / 0x1p20)));
  add("time", fmt::format("{:.0f}", std::ceil(site.time_limit_s / 60)));
  return options;
}

std::string site_shell(const Site& site) {
  std::string text;
  const auto line = [&](const std::string& l) { text += l + "\n"; };
  for (const std::string& module : site.modules) line("module load " + shell_quoted(module));
  if (!site.network_interface.empty())
    for (const char* name : {"NCCL_SOCKET_IFNAME", "OMPI_MCA_btl_tcp_if_include"})
      line(fmt::format("export {}={}", name, shell_quoted(site.network_interface)));
  if (!site.scratch.empty()) line("export TMPDIR=" + shell_quoted(site.scratch));
  for (const std::string& l : site.setup) line(l);

  std::vector<std::string> launcher, inside;
  if (site.launcher == Launcher::mpirun) {
    // Which processors a process takes of those of its node is for its threads, not for mpirun, to say.
    launcher = {"mpirun", "--bind-to", "none"};
  } else {
    // A step whose first process has gone ends within this time, also when that one was killed.
    launcher = {"srun", site.launcher == Launcher::srun_pmix ? "--mpi=pmix" : "--mpi=pmi2", "--wait=10"};
    launcher.push_back(fmt::format("--cpus-per-task={}", site.cpus_per_rank));
  }
  const Container& c = site.container;
  if (c.kind == ContainerKind::pyxis) {
    launcher.push_back("--container-image=" + c.image);
    if (!c.mounts.empty()) launcher.push_back(fmt::format("--container-mounts={}", fmt::join(c.mounts, ",")));
  } else if (c.kind == ContainerKind::apptainer) {
    inside = {"apptainer", "exec"};
    if (!site.gpus.empty()) inside.push_back("--nv");
    for (const std::string& mount : c.mounts) inside.push_back("--bind=" + mount);
    inside.push_back(c.image);
  }
  line(fmt::format("launcher=({})", shell_quoted(launcher)));
  line(fmt::format("inside=({})", shell_quoted(inside)));
  return text;
}

}  // namespace tangram
