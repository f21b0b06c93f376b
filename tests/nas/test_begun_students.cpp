#include "nas/begun_students.h"

#include <gtest/gtest.h>

#include "nas/training_loop.h"

namespace tangram {
namespace {

namespace fs = std::filesystem;

class BegunStudentsTest : public testing::Test {
 protected:
  void SetUp() override { fs::remove_all(work); }
  void TearDown() override { fs::remove_all(work); }

  /// A whole checkpoint of these columns.
  void checkpoint(const std::string& folder, int64_t steps, const std::vector<std::string>& of) {
    float loss = 1;
    std::vector<NamedTensor> tensors;
    for (const std::string& column : of) tensors.push_back({std::string(kCurvePrefix) + column, view_of(&loss, 1, 1)});
    CheckpointFolder checkpoints(work / folder);
    checkpoints.newest();
    checkpoints.write(steps, tensors, {}, ctx);
    checkpoints.finish();
  }
  /// `folder@steps: places` of each.
  std::string found() {
    std::string text;
    for (const BegunStudents& begun : begun_students(work, {"a", "b", "c", "d"}, alone))
      text += fmt::format("{}@{}: {}; ", begun.folder.filename().string(), begun.checkpoint.steps_done,
                          fmt::join(begun.places, " "));
    return text;
  }

  const fs::path work = fs::path(testing::TempDir()) /
                        fmt::format("begun_{}", testing::UnitTest::GetInstance()->current_test_info()->name());
  Context ctx;
  Communicator alone;
};

TEST_F(BegunStudentsTest, AreWhereTheirNewestStateIs) {
  EXPECT_EQ(found(), "");
  checkpoint("checkpoint", 5, {"a", "b", "c"});
  EXPECT_EQ(found(), "checkpoint@5: 0 1 2; ");
  checkpoint("checkpoint-1", 9, {"b"});
  EXPECT_EQ(found(), "checkpoint@5: 0 2; checkpoint-1@9: 1; ");
  checkpoint("checkpoint", 6, {"a", "b", "c"});  // b goes on from 9
  EXPECT_EQ(found(), "checkpoint@6: 0 2; checkpoint-1@9: 1; ");
}

TEST_F(BegunStudentsTest, FoldersThatNothingGoesOnFromAreRemoved) {
  checkpoint("checkpoint", 5, {"a", "b"});
  checkpoint("checkpoint-1", 9, {"b"});
  checkpoint("checkpoint-2", 7, {"a", "d"});
  EXPECT_EQ(found(), "checkpoint-1@9: 1; checkpoint-2@7: 0 3; ");
  EXPECT_FALSE(fs::exists(work / "checkpoint"));
  EXPECT_EQ(new_checkpoint_folder(work, {work / "checkpoint-1", work / "checkpoint-2"}), work / "checkpoint");
  EXPECT_EQ(new_checkpoint_folder(work, {work / "checkpoint", work / "checkpoint-2"}), work / "checkpoint-1");
}

}  // namespace
}  // namespace tangram
