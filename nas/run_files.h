#pragma once
#include <filesystem>
#include <vector>

#include "blocks/model.h"
#include "distill/corpus.h"
#include "distill/dataset.h"
#include "distill/token_files.h"
#include "nas/config.h"

namespace tangram {

// Where the stages of a run keep what others read. All below the run directory but a teacher that the config names.
std::filesystem::path teacher_path(const SearchConfig& config, const std::filesystem::path& run_dir);
std::filesystem::path tokens_path(const std::filesystem::path& run_dir, bool validation);
std::filesystem::path statistics_path(const std::filesystem::path& run_dir, int64_t layer);
std::filesystem::path library_dir(const std::filesystem::path& run_dir);
std::filesystem::path scores_path(const std::filesystem::path& run_dir);
std::filesystem::path architecture_path(const std::filesystem::path& run_dir, const std::string& name);
std::filesystem::path frontier_path(const std::filesystem::path& run_dir, const std::string& target);
std::filesystem::path student_path(const std::filesystem::path& run_dir, const std::string& name);
std::filesystem::path student_curve_path(const std::filesystem::path& run_dir, const std::string& name);
std::filesystem::path export_path(const std::filesystem::path& run_dir, const std::string& name,
                                  ExportFormat format = ExportFormat::huggingface);
/// What servers make of a student, as text.
std::filesystem::path servers_path(const std::filesystem::path& run_dir, const std::string& name);

/// The teacher of a run, mapped from its folder where it is stored in `dtype`.
Model load_teacher(const SearchConfig& config, const std::filesystem::path& run_dir, DType dtype);

/// The generated corpus that the config asks for.
CorpusConfig corpus_of(const SearchConfig& config);

/// The tokenizer that the run's tokens come from. Their text is the pipeline's business: a stage that reads other text
/// runs again.
TokenOrigin token_origin(const SearchConfig& config, const std::filesystem::path& run_dir);

/// What data.train or data.validation names: texts, and tokens that some run has prepared (a `.safetensors` shard, or a
/// folder of them such as another run's `tokens/train`).
struct DataFiles {
  std::vector<std::filesystem::path> texts, tokens;
};
DataFiles data_files(const SearchConfig& config, bool validation);

/// The tokens of a run: made from its texts by `prepare`, then those it was given; or generated. `prompt_weight` is
/// that of generated tokens that are no answer.
TokenDataset load_tokens(const SearchConfig& config, const std::filesystem::path& run_dir, bool validation,
                         float prompt_weight = 1);

/// Every replacement of a search space on every layer of the teacher; in each layer the teacher's own subblocks first,
/// spans after their first layer's.
std::vector<Replacement> all_replacements(const SearchSpace& space, const ModelConfig& teacher);

}  // namespace tangram
