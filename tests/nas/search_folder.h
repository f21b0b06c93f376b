#pragma once
#include <filesystem>
#include <fstream>

#include "blocks/checkpoint.h"
#include "blocks/file.h"
#include "distill/corpus.h"
#include "tests/small_model.h"

namespace tangram {

namespace fs = std::filesystem;

/// Fills a new folder with a teacher, text and search.yaml, a config that takes a second or two.
inline void write_search_folder(const fs::path& folder) {
  fs::remove_all(folder);
  fs::create_directories(folder);
  ModelConfig config = small_config();
  config.vocab_size = static_cast<int64_t>(kCorpusSymbols.size());
  const Model teacher = make_model(config, teacher_architecture(config), DType::f32);
  fill_random(teacher, 3);
  save_model(folder / "teacher", teacher);
  write_file_atomically(folder / "teacher/tokenizer.json", corpus_tokenizer_json());
  write_file_atomically(folder / "teacher/tokenizer_config.json", corpus_tokenizer_config_json());
  for (const auto& [name, split] : {std::pair("train.jsonl", Split::train), {"valid.jsonl", Split::validation}}) {
    std::ofstream out(folder / name);
    for (int64_t i = 0; i < 60; ++i) {
      std::string text = make_sequence({}, split, i).text;
      for (char& c : text)
        if (c == '\n') c = ' ';
      out << "{\"text\": \"" << text << "\"}\n";
    }
  }
  write_file_atomically(folder / "search.yaml", R"(
teacher: teacher
data: {train: [train.jsonl], validation: [valid.jsonl], sequence_length: 32}
search_space: {attention: [gqa_1, linear, no_op], ffn: [0.5, linear, no_op], pairs: [{attention: no_op, ffn: 1.0}],
               spans: [{layers: 2, ffn: 0.5}]}
distill: {tokens: 25600, batch_tokens: 256, micro_batches: 2, learning_rate: 1e-3}
score: {tokens: 2048}
scenarios: {s: {input_tokens: 8, output_tokens: 8, concurrency: 2, precision: f32}}
constraints: {memory: 70%, forbid: [{layers: 0, attention: no_op}]}
rescore: {rounds: 2}
baselines: {random: 2}
uptrain: {tokens: 25600, batch_tokens: 256, learning_rate: 1e-3}
evaluate: {tokens: 1024, without_distillation: true, runtime: true}
threads: 1
checkpoint: 1 ms
)");
}

}  // namespace tangram
