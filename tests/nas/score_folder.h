#pragma once
#include <gtest/gtest.h>

#include "blocks/file.h"
#include "nas/model_verbs.h"
#include "nas/stages.h"
#include "tests/blocks/folder.h"
#include "tests/nas/command_line.h"

namespace tangram {

/// A score table in a folder of its own, made from lines of CSV by the verb.
struct ScoreFolder : testing::Test {
  TestFolder folder;
  std::string scores = (folder.path / "scores.h5").string();

  Outcome call(const std::vector<std::string>& arguments) {
    return call_with(arguments, all_stages(), all_model_verbs());
  }

  Outcome import(const std::string& lines) {
    write_file_atomically(folder.path / "scores.csv",
                          "layer,attention,ffn,teacher,kl,weight_bytes,prefill_seconds,decode_seconds\n" + lines);
    return call({"import-scores", (folder.path / "scores.csv").string(), "--out", scores, "--scenario", "chat=8/10/4"});
  }
};

}  // namespace tangram
