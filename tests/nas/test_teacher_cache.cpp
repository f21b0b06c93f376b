#include "nas/teacher_cache.h"

#include <gtest/gtest.h>

#include <cstdlib>

#include "blocks/file.h"
#include "tests/blocks/folder.h"

namespace tangram {
namespace {

namespace fs = std::filesystem;

struct TeacherCacheTest : testing::Test {
  TestFolder folder;
  TeacherCacheTest() { setenv("TANGRAM_CACHE", (folder.path / "cache").c_str(), 1); }
  ~TeacherCacheTest() override { unsetenv("TANGRAM_CACHE"); }

  SearchConfig config(int seed) const {
    return parse_config(fmt::format(R"(
teacher: {{pretrain: {{model: {{hidden_size: 32, intermediate_size: 64, num_hidden_layers: 1, num_attention_heads: 2}},
           tokens: 4096, batch_tokens: 512, cache: true}}}}
data: {{skills: {{train_tokens: 4096, validation_tokens: 1024}}, sequence_length: 64}}
search_space: {{attention: [no_op]}}
distill: {{tokens: 4096, batch_tokens: 512}}
uptrain: {{tokens: 4096, batch_tokens: 512}}
seed: {}
)",
                                    seed),
                        "x.yaml", folder.path);
  }
  void train() const {
    fs::create_directories(folder.path / "run/teacher");
    write_file_atomically(folder.path / "run/teacher/config.json", "{}");
    write_file_atomically(folder.path / "run/teacher/weights", "12345");
    write_file_atomically(folder.path / "run/curve.csv", "step,loss");
  }
  bool take(const TeacherCache& cache) const { return cache.take(folder.path / "got", folder.path / "got.csv"); }
};

TEST_F(TeacherCacheTest, GivesBackWhatItKept) {
  train();
  const TeacherCache cache(config(1), 2);
  EXPECT_FALSE(take(cache));
  cache.keep(folder.path / "run/teacher", folder.path / "run/curve.csv");
  ASSERT_TRUE(take(TeacherCache(config(1), 2)));
  EXPECT_EQ(read_text_file(folder.path / "got/weights", 100), "12345");
  EXPECT_EQ(read_text_file(folder.path / "got.csv", 100), "step,loss");
  cache.keep(folder.path / "run/teacher", folder.path / "run/curve.csv");  // once more is no harm
  EXPECT_TRUE(take(cache));
}

TEST_F(TeacherCacheTest, KnowsWhatItsBytesDependOn) {
  train();
  TeacherCache(config(1), 2).keep(folder.path / "run/teacher", folder.path / "run/curve.csv");
  EXPECT_FALSE(take(TeacherCache(config(2), 2)));
  EXPECT_FALSE(take(TeacherCache(config(1), 1)));
}

TEST_F(TeacherCacheTest, TakesNothingThatIsDamaged) {
  train();
  const TeacherCache cache(config(1), 2);
  cache.keep(folder.path / "run/teacher", folder.path / "run/curve.csv");
  write_file_atomically(cache.folder() / "teacher/weights", "12346");
  EXPECT_FALSE(take(cache));
}

}  // namespace
}  // namespace tangram
