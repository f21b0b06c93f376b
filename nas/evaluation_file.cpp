#include "nas/evaluation_file.h"

#include "blocks/file.h"
#include "blocks/json.h"

namespace tangram {

static constexpr int64_t kMaxBytes = int64_t{64} << 20;

static nlohmann::ordered_json json_of(const std::vector<TakenLimit>& limits) {
  nlohmann::ordered_json json = nlohmann::ordered_json::array();
  for (const TakenLimit& l : limits)
    json.push_back({{"quantity", l.quantity}, {"limit", l.limit}, {"taken", l.taken}, {"missed", l.missed}});
  return json;
}

void write_evaluations(const std::filesystem::path& path, const std::vector<Evaluation>& evaluations) {
  nlohmann::ordered_json models = nlohmann::ordered_json::array();
  for (const Evaluation& e : evaluations) {
    nlohmann::ordered_json metrics, skills = nlohmann::ordered_json::object();
    for (size_t m = 0; m < kMetricCount; ++m)
      metrics[std::string(kMetricNames[m])] = {{"mean", e.metrics[m].mean},
                                               {"standard_error", e.metrics[m].standard_error}};
    for (const auto& [skill, count] : e.skills) skills[skill] = {{"right", count.first}, {"total", count.second}};
    models.push_back({{"name", e.name},
                      {"target", e.target},
                      {"method", e.method},
                      {"state", e.state},
                      {"parameters", e.parameters},
                      {"metrics", metrics},
                      {"skills", skills}});
  }
  write_file_atomically(path, models.dump(1) + "\n");
}

std::vector<Evaluation> read_evaluations(const std::filesystem::path& path) {
  const nlohmann::json models = parse_json(read_text_file(path, kMaxBytes), path.string(), 8);
  std::vector<Evaluation> evaluations;
  try {
    for (const nlohmann::json& model : models) {
      Evaluation& e = evaluations.emplace_back();
      e.name = model.at("name"), e.target = model.at("target"), e.method = model.at("method");
      e.state = model.at("state"), e.parameters = model.at("parameters");
      for (size_t m = 0; m < kMetricCount; ++m) {
        const nlohmann::json& metric = model.at("metrics").at(std::string(kMetricNames[m]));
        e.metrics[m] = {metric.at("mean"), metric.at("standard_error")};
      }
      for (const auto& [skill, count] : model.at("skills").items())
        e.skills[skill] = {count.at("right"), count.at("total")};
    }
  } catch (const nlohmann::json::exception& error) {
    throw bad_input("{}: {}; run the evaluate stage again", path.string(), error.what());
  }
  return evaluations;
}

void write_runtimes(const std::filesystem::path& path, const std::vector<MeasuredRuntime>& runtimes) {
  nlohmann::ordered_json json = nlohmann::ordered_json::array();
  for (const MeasuredRuntime& r : runtimes)
    json.push_back({{"name", r.name},
                    {"scenario", r.scenario},
                    {"prefill_seconds", r.prefill_seconds},
                    {"decode_seconds", r.decode_seconds},
                    {"weight_bytes", r.weight_bytes},
                    {"kv_cache_bytes", r.kv_cache_bytes},
                    {"workspace_bytes", r.workspace_bytes},
                    {"is_disturbed", r.is_disturbed},
                    {"limits", json_of(r.limits)}});
  write_file_atomically(path, json.dump(1) + "\n");
}

std::vector<MeasuredRuntime> read_runtimes(const std::filesystem::path& path) {
  std::vector<MeasuredRuntime> runtimes;
  if (!std::filesystem::exists(path)) return runtimes;
  try {
    for (const nlohmann::json& r : parse_json(read_text_file(path, kMaxBytes), path.string(), 6)) {
      runtimes.push_back({r.at("name"), r.at("scenario"), r.at("prefill_seconds"), r.at("decode_seconds"),
                          r.at("weight_bytes"), r.at("kv_cache_bytes"), r.at("workspace_bytes"), r.at("is_disturbed")});
      if (!r.contains("limits")) continue;  // of an older run
      for (const nlohmann::json& l : r.at("limits"))
        runtimes.back().limits.push_back({l.at("quantity"), l.at("limit"), l.at("taken"), l.at("missed")});
    }
  } catch (const nlohmann::json::exception& error) {
    throw bad_input("{}: {}; run the evaluate stage again", path.string(), error.what());
  }
  return runtimes;
}

std::string disturbance_text(int64_t disturbed, int64_t timings, std::string_view verb) {
  return fmt::format(
      "{} of {} timings were taken while other work kept the machine busy, and may be too long; on a quiet one: "
      "tangram "
      "{} CONFIG.yaml --again",
      disturbed, timings, verb);
}

std::string disturbance_text(const ScoreTable& table) {
  std::string text;
  for (size_t s = 0; s < table.sources.size(); ++s)
    if (const CostSource& source = table.sources[s]; source.disturbed_timings > 0)
      text += fmt::format("scenario {}: {}\n", table.scenarios[s].name,
                          disturbance_text(int64_t(source.disturbed_timings), int64_t(source.timings), "measure"));
  return text;
}

}  // namespace tangram
