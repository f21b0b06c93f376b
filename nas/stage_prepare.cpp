#include "blocks/sha256.h"
#include "blocks/tokenizer.h"
#include "distill/skill_accuracy.h"
#include "distill/skills.h"
#include "distill/statistics.h"
#include "distill/token_files.h"
#include "nas/run_files.h"
#include "nas/stages.h"

namespace tangram {
namespace fs = std::filesystem;
namespace {

constexpr double kTeacherAccuracy = 0.95;      // of every skill; below it, a comparison with the teacher says little
constexpr int64_t kCalibrationTokens = 16384;  // statistics are means: 4 to 100 times the unknowns of a small model
constexpr int64_t kBatchTokens = 4096;

fs::path tokenise(const StageInput& in, const Tokenizer& tokenizer, const std::vector<fs::path>& files,
                  bool validation) {
  TokenOrigin origin = token_origin(in.config, in.run_dir);
  std::string digests;
  double bytes = 0, bytes_done = 0;
  for (const fs::path& file : files) digests += digest_file(file), bytes += double(fs::file_size(file));
  Progress progress(in.console, validation ? "tokenise validation" : "tokenise train", "bytes", bytes);
  Encoder encoder(tokenizer);
  const auto encode_document = [&](std::string_view text) {
    std::vector<int32_t> ids = encoder.encode(text, {.parse_special = false});
    if (tokenizer.eos_id >= 0) ids.push_back(tokenizer.eos_id);
    progress.update(bytes_done += double(text.size()));
    return ids;
  };
  origin.text = digest_bytes(digests);
  const fs::path folder = tokens_path(in.run_dir, validation);
  prepare_tokens(folder, files, encode_document, in.config.data.sequence_length, origin);
  return folder;
}

void check_teacher(const StageInput& in, const Model& teacher) {
  const std::vector<SkillCount> counts =
      skill_accuracy(teacher, corpus_of(in.config), Split::validation, 0, in.config.evaluate.skill_sequences, in.ctx);
  for (size_t i = 0; i < counts.size(); ++i)
    if (double(counts[i].right) < kTeacherAccuracy * double(counts[i].total))
      throw bad_input("{}: the teacher answers {} of {} '{}' right; at least {:.0f} % are needed. Train it longer.",
                      teacher_path(in.config, in.run_dir).string(), counts[i].right, counts[i].total,
                      corpus_skills()[i].name, 100 * kTeacherAccuracy);
}

}  // namespace

std::vector<fs::path> run_prepare(const StageInput& in) {
  std::vector<fs::path> outputs;
  const DType dtype = in.config.distill.training.dtype;
  const TeacherSource teacher = streamed_teacher(teacher_path(in.config, in.run_dir), dtype);
  search_space(in.config, teacher.config);  // a slip in it is refused before the work, though only distill reads it
  if (in.config.data.skills) {
    check_teacher(in, move_model(load_teacher(in.config, in.run_dir, dtype), in.ctx.device, in.ctx));
  } else {
    const Tokenizer tokenizer = load_tokenizer(teacher_path(in.config, in.run_dir));
    for (const bool validation : {false, true})
      if (const DataFiles files = data_files(in.config, validation); !files.texts.empty())
        outputs.push_back(tokenise(in, tokenizer, files.texts, validation));
  }
  const TokenDataset tokens = load_tokens(in.config, in.run_dir, /*validation=*/false);
  const int64_t T = tokens.sequence_length;
  const int64_t batch_tokens = std::max(T, kBatchTokens / T * T);
  const int64_t batch_count = std::max<int64_t>(1, std::min(tokens.tokens(), kCalibrationTokens) / batch_tokens);
  std::vector<Batch> batches;
  for (int64_t i = 0; i < batch_count; ++i)
    batches.push_back(training_batch(tokens, std::min(batch_tokens, tokens.tokens()), in.config.seed, i));
  Progress progress(in.console, "prepare", "layers", double(teacher.config.num_hidden_layers));
  fs::create_directories(statistics_path(in.run_dir, 0).parent_path());
  collect_statistics(
      teacher, batches,
      [&](int64_t layer, const LayerStatistics& statistics) {
        outputs.push_back(statistics_path(in.run_dir, layer));
        save_statistics(outputs.back(), statistics);
        progress.update(double(layer + 1));
      },
      in.ctx);
  return outputs;
}

}  // namespace tangram
