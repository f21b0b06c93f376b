#include "nas/server_check.h"

#include <nlohmann/json.hpp>

#include "blocks/config_json.h"
#include "nas/architecture_file.h"
#include "nas/model_export.h"
#include "nas/run_files.h"

namespace tangram {
namespace {

nlohmann::ordered_json changes_json(std::span<const FormChange> changes) {
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (const FormChange& c : changes) list.push_back({{"layer", c.layer}, {"what", c.text}});
  return list;
}

std::vector<ModelForm> students_of(const SearchConfig& config) {
  const std::filesystem::path folder = architecture_path(config.run_dir, "any").parent_path();
  std::vector<ModelForm> students;
  std::error_code error;
  if (std::filesystem::is_directory(folder, error)) {
    const ModelConfig teacher = read_config(teacher_path(config, config.run_dir)).config;
    for (const ChosenArchitecture& chosen : read_architectures(folder)) {
      if (chosen.method == "nearest") continue;
      students.push_back({chosen.name, blocks_of(chosen, teacher), teacher});
      students.back().config.num_hidden_layers = std::ssize(students.back().architecture);
    }
  }
  if (students.empty()) throw bad_input("{}: no students yet; first: tangram search CONFIG", folder.string());
  return students;
}

}  // namespace

bool print_servers(std::span<const ModelForm> models, std::span<const Server* const> servers, const VerbInput& input) {
  bool all_run = true;
  nlohmann::ordered_json json = nlohmann::ordered_json::array();
  for (const ModelForm& model : models) {
    for (const Server* server : servers) {
      const ServerCheck check = check_server(*server, model.architecture, model.config);
      all_run = all_run && check.runs();
      nlohmann::ordered_json one = nlohmann::ordered_json::object();
      if (!model.name.empty()) one["student"] = model.name;
      one["server"] = server->name;
      one["version"] = server->version;
      one["runs"] = check.runs();
      one["rewritten"] = changes_json(check.plan.changes);
      one["obstacles"] = changes_json(check.obstacles);
      json.push_back(std::move(one));
    }
    if (input.json) continue;
    if (!model.name.empty()) fmt::print(input.out, "{}'{}'\n", &model == &models[0] ? "" : "\n", model.name);
    fmt::print(input.out, "{}", servers_text(servers, model.architecture, model.config));
  }
  if (input.json) fmt::print(input.out, "{}\n", json.dump(2));
  return all_run;
}

void check_students(const SearchConfig& config, std::span<const Server* const> servers, const VerbInput& input) {
  if (!print_servers(students_of(config), servers, input))
    throw Error("not all of these servers can run all of these students", Failure::infeasible);
}

}  // namespace tangram
