#include "nas/stages.h"

namespace tangram {

std::vector<std::filesystem::path> run_pretrain(const StageInput&);
std::vector<std::filesystem::path> run_prepare(const StageInput&);
std::vector<std::filesystem::path> run_distill(const StageInput&);
std::vector<std::filesystem::path> run_score(const StageInput&);
std::vector<std::filesystem::path> run_measure(const StageInput&);
std::vector<std::filesystem::path> run_search(const StageInput&);
std::vector<std::filesystem::path> run_uptrain(const StageInput&);
std::vector<std::filesystem::path> run_evaluate(const StageInput&);
std::vector<std::filesystem::path> run_export(const StageInput&);
std::vector<std::filesystem::path> run_report(const StageInput&);

std::span<const Stage> all_stages() {
  static const std::vector<Stage> kStages = {
      {"pretrain",
       "Train the teacher, if the config brings none",
       {"teacher", "data", "seed"},
       {},
       run_pretrain,
       [](const SearchConfig& config) { return config.teacher.pretrain.has_value(); }},
      {"prepare",
       "Check the teacher, tokenise the text, and collect activation statistics",
       {"teacher", "data", "distill.dtype", "evaluate.skill_sequences", "seed"},
       {"pretrain"},
       run_prepare},
      {"distill",
       "Train every variant of every layer against the teacher",
       {"data", "search_space", "distill", "seed"},
       {"pretrain", "prepare"},
       run_distill,
       nullptr,
       /*on_ranks=*/true},
      {"score",
       "Score every variant in its place in the teacher",
       {"data", "search_space", "distill.dtype", "score"},
       {"pretrain", "prepare", "distill"},
       run_score,
       nullptr,
       /*on_ranks=*/true},
      {"measure",
       "Measure what every variant costs in each scenario",
       {"scenarios", "hardware"},
       {"score"},
       run_measure},
      {"search",
       "Choose the best variant for every layer under the limits",
       {"score", "constraints", "solutions", "rescore", "baselines", "seed"},
       {"pretrain", "prepare", "distill", "score", "measure"},
       run_search},
      {"uptrain",
       "Heal the chosen students by global distillation",
       {"data", "uptrain", "seed"},
       {"pretrain", "prepare", "distill", "search"},
       run_uptrain,
       nullptr,
       /*on_ranks=*/true},
      {"evaluate",
       "Compare students and teacher on text that none was trained on",
       {"data", "distill.dtype", "scenarios", "evaluate", "seed"},
       {"pretrain", "prepare", "distill", "search", "uptrain"},
       run_evaluate},
      {"export",
       "Write the healed students for other programs, and say which servers run them",
       {"export"},
       {"pretrain", "search", "uptrain"},
       run_export},
      {"report",
       "Write down what each layer got, and what it costs and keeps",
       {"constraints", "solutions"},
       {"score", "measure", "search", "evaluate", "export"},
       run_report},
  };
  return kStages;
}

}  // namespace tangram
