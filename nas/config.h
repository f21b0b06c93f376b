#pragma once
#include <array>
#include <filesystem>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "blocks/architecture.h"
#include "distill/bld.h"
#include "distill/gkd.h"
#include "nas/units.h"
#include "nas/yaml.h"
#include "puzzle/replace_one.h"
#include "puzzle/search.h"

namespace tangram {

/// How one training run goes; shared by pre-training, blockwise and global distillation. The learning rate rises over
/// the first `warmup` of the steps, stays until `decay_start`, and falls to `final_learning_rate` of itself.
struct TrainingConfig {
  int64_t tokens = 100'000'000;
  int64_t batch_tokens = 65'536;  ///< of one optimiser step
  int64_t micro_batches = 1;      ///< parts of a batch whose gradients are summed
  int64_t shards = 1;             ///< equal runs of micro-batches, a power of two, which replicas can share
  double learning_rate = 1e-4;
  double warmup = 0.05;            ///< part of the steps
  double decay_start = 0;          ///< part of the steps; the end of the warm-up if that is later
  double final_learning_rate = 0;  ///< part of learning_rate
  Decay decay = Decay::linear;
  OptimiserOptions optimiser;
  DType dtype = DType::f32;  ///< of weights and activations; masters and moments are f32
};

/// A teacher that Tangram trains itself, on data.skills or data.train.
struct PretrainConfig {
  ModelConfig model;  ///< vocabulary and special tokens are the tokenizer's
  TrainingConfig training;
  double prompt_weight = 1;  ///< loss weight of the tokens that are no answer; answers have 1
  bool cache = false;        ///< keep it for other runs, and take it from there (nas/teacher_cache.h)
};

struct TeacherConfig {
  std::filesystem::path folder;  ///< Hugging Face folder; empty if `pretrain` is given
  std::optional<PretrainConfig> pretrain;
};

/// The corpus of exactly checkable skills that Tangram generates.
struct SkillsConfig {
  uint64_t seed = 1;
  int64_t facts = 400;  ///< that the teacher has to know by heart
  int64_t train_tokens = 4'000'000;
  int64_t validation_tokens = 100'000;
};

struct DataConfig {
  std::vector<std::filesystem::path> train, validation;  ///< .jsonl ("text"), .txt, or prepared tokens
  std::optional<SkillsConfig> skills;                    ///< instead of files
  int64_t sequence_length = 2048;
};

/// Variants of one subblock of a pair, as in SearchSpaceConfig.
struct PairConfig {
  std::string attention, ffn;
};

/// One block for every so many consecutive layers; a subblock that is not named is the teacher's kind and size.
struct SpanConfig {
  int64_t layers = 2;
  std::string attention = {}, ffn = {};
};

/// Spelled as `parse_choice` reads them; the teacher's own subblocks are always options too.
struct SearchSpaceConfig {
  std::vector<std::string> attention, ffn;
  std::vector<PairConfig> pairs;  ///< trained and scored together
  std::vector<SpanConfig> spans;
};

/// In which order layers take their steps; the students are the same, bit for bit.
enum class DistillOrder : uint8_t {
  breadth_first,  ///< every layer takes a step before any takes the next: one pass over the text, all in memory
  depth_first,    ///< every layer takes all its steps before the next: one layer in memory, boundaries on disk
};

struct DistillConfig {
  TrainingConfig training;
  DistillOrder order = DistillOrder::breadth_first;
  Init init = Init::least_squares;
  BldTarget target = BldTarget::subblock;
};

struct ScoreConfig {
  int64_t tokens = 1'000'000;
  Metric objective = Metric::kl_divergence;  ///< what the search makes best
};

/// Scoring again in the context of the student that a search found, and searching near it, until what is measured of
/// whole students gets no better.
struct RescoreConfig {
  int64_t rounds = 0;      ///< at most so many scorings; 0: the sums of scores taken in the teacher decide
  int64_t candidates = 4;  ///< students that are assembled and measured of each search
};

/// A load that costs are given for, as in Scenario; several concurrencies leave the batch size to the search.
struct ScenarioConfig {
  std::string name;
  int64_t input_tokens = 0, output_tokens = 0;
  std::vector<int64_t> concurrency;
  Precision precision = Precision::bf16;
  std::optional<Precision> kv_precision = {};
  int64_t tensor_parallel = 1;
};

/// Variants that layers have to have, or must not have: `layers` is 12, 0-3 or all.
struct RuleConfig {
  std::string layers = "all", attention = {}, ffn = {};
};

/// Limits that one student has to keep: for each quantity, scenario (or group of them) -> limit. The limit of the empty
/// name holds in every scenario.
struct TargetConfig {
  std::string name = "student";
  std::array<std::map<std::string, Limit>, kQuantities.size()> limits = {};
  std::vector<RuleConfig> require = {}, forbid = {};
  int64_t most_variants = 0;               ///< > 0: at most so many different subblock variants
  std::vector<std::string> servable = {};  ///< servers that have to run the student: see blocks/servers.h

  std::map<std::string, Limit>& of(Quantity q) { return limits[static_cast<size_t>(q)]; }
  const std::map<std::string, Limit>& of(Quantity q) const { return limits[static_cast<size_t>(q)]; }
};
std::vector<Constraint> constraints_of(const TargetConfig& target);
std::vector<ChoiceRule> rules_of(const TargetConfig& target, int64_t layer_count);

struct SolutionsConfig {
  int64_t count = 1;
  double min_difference = 0.2;  ///< part of the layers in which any two solutions differ
  std::string frontier = {};    ///< also the best student for every value of this quantity's limit: `chat.memory`
  int64_t points = 100;         ///< of the frontier
};

/// Students that are chosen in simpler ways under the same limits, for comparison.
struct BaselinesConfig {
  bool greedy = true, uniform = true, largest_parameter = true;
  int64_t random = 0;              ///< how many random ones
  std::vector<Metric> objectives;  ///< the MIP again, by these scores
};

struct UptrainConfig {
  TrainingConfig training;
  GkdLossWeights loss;
};

struct EvaluateConfig {
  int64_t tokens = 1'000'000;
  int64_t skill_sequences = 256;      ///< a skill, where the data are data.skills
  bool without_distillation = false;  ///< the students with their variants as they were initialised, too
  bool runtime = false;               ///< time the searched students as whole models, beside what was predicted
};

/// The machine that costs are for: this one, measured; or one that a description tells of, modelled.
struct HardwareConfig {
  std::string name = "this";   ///< or one of known_hardware_names()
  std::filesystem::path file;  ///< a description of the user's own, in place of the name

  bool is_this() const { return file.empty() && name == "this"; }
};
/// Hugging Face folders say by block_configs what irregular blocks are, or by per_layer_config. GGUF files have
/// matrices as the student is stored, or in the type that is named.
enum class ExportFormat : uint8_t { huggingface, per_layer_config, gguf, gguf_f16, gguf_q8_0 };
inline constexpr std::string_view kExportNames[] = {"huggingface", "per_layer_config", "gguf", "gguf_f16", "gguf_q8_0"};
inline bool is_gguf(ExportFormat format) { return format >= ExportFormat::gguf; }

/// One search config, checked. The member initialisers are the defaults.
struct SearchConfig {
  TeacherConfig teacher;
  DataConfig data;
  SearchSpaceConfig search_space;
  DistillConfig distill;
  ScoreConfig score;
  std::vector<ScenarioConfig> scenarios;
  HardwareConfig hardware;
  std::vector<TargetConfig> constraints;
  SolutionsConfig solutions;
  RescoreConfig rescore;
  BaselinesConfig baselines;
  UptrainConfig uptrain;
  EvaluateConfig evaluate;
  std::vector<ExportFormat> exports = {ExportFormat::huggingface};
  std::filesystem::path run_dir;  ///< default: runs/<name of the config> below the working directory
  uint64_t seed = 0;
  int64_t threads = 0;              ///< 0: as many as the process may use
  double checkpoint_seconds = 300;  ///< between two checkpoints of a training run

  YamlNode source;  ///< what it was read from, for messages
};

/// Reads and checks a config; `overrides` are `key.path=value` and come from --set. Throws Error (bad_input) naming
/// file, line, key, what was found and what is allowed.
SearchConfig read_search_config(const std::filesystem::path& path, std::span<const std::string> overrides = {});

/// read_search_config of a text, with no default for run_dir. Relative paths are relative to `folder`; `name` stands
/// for the text in messages.
SearchConfig parse_config(std::string_view text, const std::string& name, const std::filesystem::path& folder,
                          std::span<const std::string> overrides = {});

/// The scenarios in order, one for each concurrency, which then ends the name: `chat@64`.
std::vector<Scenario> scenarios_of(const SearchConfig& config);

/// Throws Error naming place and key of a teacher or text that is not there, or a variant or rule it cannot have.
void check_inputs(const SearchConfig& config);

/// The config in effect as YAML that read_search_config reads back; paths are written relative to `folder`.
std::string write_config(const SearchConfig& config, const std::filesystem::path& folder);

/// The text of every top-level key but run_dir, and of every key of a section under `section.key`; defaults too, with
/// paths replaced by the fingerprint of what they name.
/// What a stage makes depends on nothing else of the config than the texts of the keys it reads; so distill.order is as
/// if it were not given.
std::map<std::string, std::string> config_sections(const SearchConfig& config);

/// Where the config has `key.path` (list items by number), for a message; the config's name if it is a default.
std::string place_of(const SearchConfig& config, std::string_view key_path);

/// A block that may stand for any `layers` consecutive layers.
struct Span {
  int64_t layers;
  BlockChoice block;
  bool operator==(const Span&) const = default;
};

/// The search space of one teacher, duplicates removed, its own subblocks first.
struct SearchSpace {
  std::vector<Choice> attention, ffn;
  std::vector<BlockChoice> pairs;
  std::vector<Span> spans;
};

/// Throws Error naming place and key of a variant that this teacher does not have.
SearchSpace search_space(const SearchConfig& config, const ModelConfig& teacher);

}  // namespace tangram
