// Oracles: the tensors that were written; sha256sum of coreutils for digests; the folder's own listing at the moments
// when a process may be killed; the same state on another number of ranks.

#include "distill/checkpoint_folder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <condition_variable>
#include <mutex>
#include <numeric>
#include <thread>

#include "blocks/sha256.h"
#include "tests/blocks/damage.h"

namespace tangram {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::UnorderedElementsAre;

/// Tensors of a state, whose values depend on the step.
struct State {
  Arena memory{1 << 20};
  std::vector<NamedTensor> tensors;

  explicit State(int64_t step, int64_t count = 6) {
    for (int64_t i = 0; i < count; ++i) {
      const DType dtype = i % 3 == 1 ? DType::bf16 : DType::f32;
      const Tensor t = memory.tensor(i + 1, 5, dtype);
      auto* bytes = static_cast<unsigned char*>(t.data);
      for (int64_t b = 0; b < t.bytes(); ++b) bytes[b] = static_cast<unsigned char>(31 * step + 7 * i + b);
      tensors.push_back({fmt::format("layer.{}/moment1", i), t});
    }
  }
  /// Those that rank `rank` of `ranks` has: every ranks-th.
  std::vector<NamedTensor> of(int64_t rank, int64_t ranks) const {
    std::vector<NamedTensor> own;
    for (size_t i = static_cast<size_t>(rank); i < tensors.size(); i += static_cast<size_t>(ranks))
      own.push_back(tensors[i]);
    return own;
  }
};

std::string bytes_of(const NamedTensor& t) {
  return {static_cast<const char*>(t.tensor.data), static_cast<size_t>(t.tensor.bytes())};
}

void expect_same(std::span<const NamedTensor> found, std::span<const NamedTensor> expected) {
  ASSERT_EQ(found.size(), expected.size());
  for (size_t i = 0; i < found.size(); ++i) EXPECT_TRUE(bytes_of(found[i]) == bytes_of(expected[i])) << found[i].name;
}

/// Every file of a folder, and its content.
std::map<std::string, std::string> files_of(const fs::path& folder) {
  std::map<std::string, std::string> files;
  for (const auto& entry : fs::recursive_directory_iterator(folder))
    if (entry.is_regular_file())
      files[entry.path().lexically_relative(folder).string()] = read_text_file(entry.path(), 1 << 24);
  return files;
}

std::vector<std::string> names_in(const fs::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) names.push_back(entry.path().filename().string());
  return names;
}

class CheckpointFolderTest : public testing::Test {
 protected:
  /// Whole checkpoints after these steps, by one rank.
  void write_steps(const std::vector<int64_t>& steps) {
    CheckpointFolder checkpoints(folder);
    for (const int64_t step : steps) {
      checkpoints.write(step, State(step).tensors, {{"config", "c0ffee"}}, ctx);
      checkpoints.finish();
    }
  }
  /// The state that the newest checkpoint has is that of `step`.
  void expect_newest(int64_t step, const std::string& passed_over = "") {
    const std::optional<Checkpoint> newest = CheckpointFolder(folder).newest();
    ASSERT_TRUE(newest);
    EXPECT_EQ(newest->steps_done, step);
    const State found(0), expected(step);
    newest->read(found.tensors, ctx);
    expect_same(found.tensors, expected.tensors);
    EXPECT_EQ(newest->passed_over.empty(), passed_over.empty());
    for (const std::string& problem : newest->passed_over) EXPECT_THAT(problem, HasSubstr(passed_over));
  }

  const TestFolder own;
  const fs::path folder = own.path / "work/checkpoint";
  Context ctx;
};

TEST_F(CheckpointFolderTest, ReadsWhatItWrote) {
  EXPECT_FALSE(CheckpointFolder(folder).newest());
  write_steps({7});
  expect_newest(7);
  EXPECT_EQ(CheckpointFolder(folder).newest()->state.metadata.at("config"), "c0ffee");
  EXPECT_THAT(names_in(folder / "step-7"), UnorderedElementsAre("manifest.json", "part-0.safetensors"));
}

TEST_F(CheckpointFolderTest, ManifestHasTheDigestThatAnotherProgramFinds) {
  write_steps({7});
  const auto manifest = nlohmann::json::parse(read_text_file(folder / "step-7/manifest.json", 1 << 20));
  const fs::path part = folder / "step-7/part-0.safetensors";
  std::FILE* pipe = popen(("sha256sum < " + part.string()).c_str(), "r");
  char digest[65] = {};
  ASSERT_EQ(std::fread(digest, 1, 64, pipe), 64u);
  pclose(pipe);
  EXPECT_EQ(manifest["parts"][0]["sha256"], digest);
  EXPECT_EQ(manifest["parts"][0]["bytes"], fs::file_size(part));
  EXPECT_EQ(manifest["steps_done"], 7);
}

TEST_F(CheckpointFolderTest, TheSameStateGivesTheSameBytes) {
  write_steps({7, 9});
  const auto expected = files_of(folder);
  fs::remove_all(folder);
  {
    CheckpointFolder foreground(folder, {.max_snapshot_bytes = 100});
    for (const int64_t step : {7, 9}) foreground.write(step, State(step).tensors, {{"config", "c0ffee"}}, ctx);
    foreground.finish();
  }
  EXPECT_TRUE(files_of(folder) == expected);
}

TEST_F(CheckpointFolderTest, WritesTheStateOfItsMoment) {
  for (int64_t i = 0; i < 20; ++i) {
    CheckpointFolder checkpoints(folder);
    const State state(i + 1), copy(i + 1);
    checkpoints.write(i + 1, state.tensors, {}, ctx);
    for (const NamedTensor& t : state.tensors) std::memset(t.tensor.data, 0, static_cast<size_t>(t.tensor.bytes()));
    checkpoints.finish();
    expect_newest(i + 1);
  }
}

TEST_F(CheckpointFolderTest, TensorsMayHaveStrides) {
  const State all(3);
  const Tensor wide = all.tensors[4].tensor;  // (5, 5) bf16
  CheckpointFolder checkpoints(folder);
  const NamedTensor part{"columns", wide.col_range(1, 3)};
  checkpoints.write(1, std::span(&part, 1), {}, ctx);
  checkpoints.finish();
  Arena memory(1 << 10);
  const NamedTensor found{"columns", memory.tensor(5, 3, DType::bf16)};
  checkpoints.newest()->read(std::span(&found, 1), ctx);
  for (int64_t r = 0; r < 5; ++r)
    for (int64_t c = 0; c < 3; ++c)
      EXPECT_EQ(found.tensor.row<uint16_t>(r)[c], wide.row<uint16_t>(r)[c + 1]) << r << " " << c;
}

TEST_F(CheckpointFolderTest, KeepsTwo) {
  write_steps({1, 2, 5, 9});
  EXPECT_THAT(names_in(folder), UnorderedElementsAre("step-5", "step-9"));
}

TEST_F(CheckpointFolderTest, ATensorOfNoPartIsNamed) {
  write_steps({1});
  const State more(1, 7), other(1);
  const Checkpoint checkpoint = *CheckpointFolder(folder).newest();
  EXPECT_THAT(message_of([&] { checkpoint.read(more.tensors, ctx); }), HasSubstr("no tensor 'layer.6/moment1'"));
  NamedTensor wrong = other.tensors[2];
  wrong.tensor = wrong.tensor.row_range(0, 2);
  EXPECT_THAT(message_of([&] { checkpoint.read(std::span(&wrong, 1), ctx); }), HasSubstr("is (3, 5) where (2, 5)"));
  wrong = {other.tensors[0].name, Arena(64).tensor(1, 5, DType::bf16)};
  EXPECT_THAT(message_of([&] { checkpoint.read(std::span(&wrong, 1), ctx); }), HasSubstr("is f32 where bf16"));
}

// Damage to the newest checkpoint of step 2, where that of step 1 is whole.
struct Damage {
  const char* name;
  const char* file;
  const char* found;  // in the message
  std::function<void(const fs::path& file)> apply;
};
void PrintTo(const Damage& damage, std::ostream* out) { *out << damage.name; }

const char* const kPart = "part-0.safetensors";
const char* const kManifest = "manifest.json";

/// A manifest that somebody changed and gave its digest.
std::function<void(const fs::path&)> forged(std::function<void(nlohmann::json&)> change) {
  return [change](const fs::path& path) {
    change_json(path, [&](nlohmann::json& manifest) {
      change(manifest);
      manifest.erase("sha256");
      manifest["sha256"] = digest_bytes(manifest.dump());
    });
  };
}

const Damage kDamages[] = {
    {"flipped_data", kPart, "part-0.safetensors: its SHA-256 is ",
     [](const fs::path& p) { change_text(p, [](std::string& text) { text[text.size() - 5] ^= 1; }); }},
    {"flipped_header", kPart, "part-0.safetensors: its SHA-256 is ",
     [](const fs::path& p) { change_text(p, [](std::string& text) { text[30] ^= 1; }); }},
    {"truncated", kPart, "bytes, and the manifest says ",
     [](const fs::path& p) { change_text(p, [](std::string& text) { text.resize(text.size() / 2); }); }},
    {"longer", kPart, "bytes, and the manifest says ",
     [](const fs::path& p) { change_text(p, [](std::string& text) { text += '\0'; }); }},
    {"empty", kPart, ": 0 bytes, and the manifest says ", [](const fs::path& p) { write_text(p, ""); }},
    {"gone", kPart, "No such file", [](const fs::path& p) { fs::remove(p); }},
    {"folder", kPart, "part-0.safetensors: ", [](const fs::path& p) { fs::remove(p), fs::create_directory(p); }},
    {"empty_manifest", kManifest, "manifest.json: ", [](const fs::path& p) { write_text(p, ""); }},
    {"garbage_manifest", kManifest, "manifest.json: ", [](const fs::path& p) { write_text(p, "\xff\0PK{"); }},
    {"array_manifest", kManifest, "no object with a text 'sha256'", [](const fs::path& p) { write_text(p, "[1]"); }},
    {"truncated_manifest", kManifest, "manifest.json: ",
     [](const fs::path& p) { change_text(p, [](std::string& text) { text.resize(text.size() / 2); }); }},
    {"flipped_metadata", kManifest, "manifest.json: its own SHA-256 is ",
     [](const fs::path& p) { change_text(p, [](std::string& text) { text[text.find("c0ffee")] = 'd'; }); }},
    {"flipped_step", kManifest, "manifest.json: its own SHA-256 is ",
     [](const fs::path& p) {
       change_text(p, [](std::string& text) { text[text.find("\"steps_done\": 2") + 14] = '3'; });
     }},
    {"other_step", kManifest, "manifest.json: is of step 3", forged([](auto& m) { m["steps_done"] = 3; })},
    {"missing_part", kManifest, "part-1.safetensors: No such file",
     forged([](auto& m) { m["parts"].push_back(m["parts"][0]), m["parts"][1]["file"] = "part-1.safetensors"; })},
    {"outside", kManifest, "part 0 is '../step-1/part-0.safetensors'; allowed: part-0.safetensors",
     forged([](auto& m) { m["parts"][0]["file"] = "../step-1/part-0.safetensors"; })},
    {"absolute", kManifest, "part 0 is '/etc/passwd'; allowed: part-0.safetensors",
     forged([](auto& m) { m["parts"][0]["file"] = "/etc/passwd"; })},
    {"wrong_type", kManifest, "manifest.json: 'bytes': ", forged([](auto& m) { m["parts"][0]["bytes"] = "many"; })},
    {"no_parts", kManifest, "manifest.json: 'parts': ", forged([](auto& m) { m.erase("parts"); })},
    {"text_for_part", kManifest, "manifest.json: 'file': ", forged([](auto& m) { m["parts"][0] = "part"; })},
};

class DamagedCheckpoint : public CheckpointFolderTest, public testing::WithParamInterface<Damage> {};

TEST_P(DamagedCheckpoint, FallsBackToTheOneBefore) {
  const Damage& damage = GetParam();
  write_steps({1, 2});
  expect_newest(2);
  damage.apply(folder / "step-2" / damage.file);
  expect_newest(1, damage.found);
  EXPECT_THAT(CheckpointFolder(folder).newest()->passed_over, ElementsAre(HasSubstr((folder / "step-2").string())));
  // The next whole one replaces it, and that of step 1 stays.
  CheckpointFolder checkpoints(folder);
  ASSERT_TRUE(checkpoints.newest());
  checkpoints.write(2, State(2).tensors, {}, ctx);
  checkpoints.finish();
  expect_newest(2);
  EXPECT_THAT(names_in(folder), UnorderedElementsAre("step-1", "step-2"));
}

TEST_P(DamagedCheckpoint, WithoutAWholeOneIsAnError) {
  const Damage& damage = GetParam();
  write_steps({2});
  damage.apply(folder / "step-2" / damage.file);
  const auto before = names_in(folder / "step-2");
  EXPECT_THAT(message_of([&] { CheckpointFolder(folder).newest(); }),
              AllOf(HasSubstr("of 1 checkpoints none is whole"), HasSubstr(damage.found), HasSubstr("to begin again")));
  EXPECT_EQ(names_in(folder / "step-2"), before);  // it may be mended
}

INSTANTIATE_TEST_SUITE_P(Kinds, DamagedCheckpoint, testing::ValuesIn(kDamages),
                         [](const auto& damage) { return std::string(damage.param.name); });

TEST_F(CheckpointFolderTest, ADamagedOneIsNotCountedAmongTheTwo) {
  write_steps({1, 2});
  fs::remove(folder / "step-2" / kPart);
  CheckpointFolder checkpoints(folder);
  ASSERT_EQ(checkpoints.newest()->steps_done, 1);
  checkpoints.write(3, State(3).tensors, {}, ctx);
  checkpoints.finish();
  EXPECT_THAT(names_in(folder), UnorderedElementsAre("step-1", "step-3"));
}

TEST_F(CheckpointFolderTest, LeftoversOfAKilledWriteAreNothing) {
  write_text(own.path / "part", "half a part");
  fs::create_directories(folder / "step-3");
  fs::copy(own.path / "part", folder / "step-3" / kPart);
  fs::copy(own.path / "part", folder / "step-3/.manifest.json.17.tmp");
  fs::create_directories(folder / "step-03"), fs::create_directories(folder / "notes");
  EXPECT_FALSE(CheckpointFolder(folder).newest());
  EXPECT_THAT(names_in(folder), UnorderedElementsAre("step-03", "notes")) << "what is not ours stays";
  write_steps({4});
  fs::create_directories(folder / "step-5");
  fs::copy(own.path / "part", folder / "step-5" / kPart);
  expect_newest(4);
  EXPECT_FALSE(fs::exists(folder / "step-5"));
}

TEST_F(CheckpointFolderTest, AFailureOfTheThreadComesOutAndCostsNoCheckpoint) {
  write_steps({1, 2});
  for (const int way : {0, 1, 2}) {
    CheckpointFolder checkpoints(folder, {.max_snapshot_bytes = way == 2 ? 0 : INT64_MAX});
    ASSERT_TRUE(checkpoints.newest());
    write_text(folder / "step-3", "a file where the folder is to be");
    checkpoints.write(3, State(3).tensors, {}, ctx);
    const std::string message = message_of([&] {
      if (way == 0) checkpoints.write(4, State(4).tensors, {}, ctx);
      for (int64_t i = 0; way == 1 && i < 10'000 && !checkpoints.poll(); ++i)
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
      checkpoints.finish();
    });
    EXPECT_THAT(message, HasSubstr((folder / "step-3").string())) << way;
    EXPECT_TRUE(checkpoints.poll()) << "a failure is told once";
    fs::remove(folder / "step-3");  // else it is removed as a leftover
    expect_newest(2);
    EXPECT_THAT(names_in(folder), UnorderedElementsAre("step-1", "step-2"));
  }
}

/// Ranks as threads of this process, which meet in `exchange`.
class Ranks {
 public:
  explicit Ranks(int count) : count_(count) {}
  double patience_s = 60;

  std::vector<std::string> exchange(int rank, const std::string& mine) {
    std::unique_lock lock(mutex_);
    texts_.resize(static_cast<size_t>(count_));
    texts_[static_cast<size_t>(rank)] = mine;
    const int64_t round = round_;
    if (++arrived_ == count_) {
      ++round_, arrived_ = 0;
      result_ = texts_;
      changed_.notify_all();
    }
    changed_.wait(lock, [&] { return round_ > round; });
    return result_;
  }

  /// Runs `work(rank, its folder)` on all of them, and returns what each threw.
  std::vector<std::string> run(const fs::path& folder, const std::function<void(int, CheckpointFolder&)>& work) {
    std::vector<std::string> messages(static_cast<size_t>(count_));
    std::vector<std::thread> threads;
    for (int r = 0; r < count_; ++r)
      threads.emplace_back([&, r] {
        CheckpointFolder mine(folder, {.ranks = {r, count_, [this, r](const auto& text) { return exchange(r, text); }},
                                       .patience_s = patience_s});
        messages[static_cast<size_t>(r)] = message_of([&] { work(r, mine); });
      });
    for (std::thread& thread : threads) thread.join();
    return messages;
  }

 private:
  const int count_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::string> texts_, result_;
  int64_t round_ = 0;
  int arrived_ = 0;
};

class CheckpointRanksTest : public CheckpointFolderTest {
 protected:
  std::vector<std::string> write_on(int ranks, int64_t step) {
    return Ranks(ranks).run(folder, [&](int rank, CheckpointFolder& checkpoints) {
      Context own_context;
      checkpoints.newest();
      const State state(step);
      checkpoints.write(step, state.of(rank, ranks), {}, own_context);
      checkpoints.finish();
    });
  }
};

TEST_F(CheckpointRanksTest, AnyNumberReadsWhatAnyNumberWrote) {
  int64_t step = 0;
  for (const int writers : {1, 2, 4, 7}) {  // of 7, one has nothing
    EXPECT_THAT(write_on(writers, ++step), testing::Each("")) << writers;
    EXPECT_EQ(names_in(folder / fmt::format("step-{}", step)).size(), size_t(writers) + 1);
    for (const int readers : {1, 2, 3, 8}) {
      const auto messages = Ranks(readers).run(folder, [&](int rank, CheckpointFolder& checkpoints) {
        Context own_context;
        const State found(0), expected(step);
        checkpoints.newest()->read(found.of(rank, readers), own_context);
        expect_same(found.of(rank, readers), expected.of(rank, readers));
      });
      EXPECT_THAT(messages, testing::Each("")) << writers << " to " << readers;
    }
  }
}

TEST_F(CheckpointRanksTest, AllFallBackWhereOneFindsDamage) {
  write_on(3, 1), write_on(3, 2);
  change_text(folder / "step-2/part-2.safetensors", [](std::string& text) { text.back() ^= 1; });
  for (const int readers : {1, 2, 3}) {
    const auto messages = Ranks(readers).run(folder, [](int, CheckpointFolder& checkpoints) {
      const Checkpoint checkpoint = *checkpoints.newest();
      EXPECT_EQ(checkpoint.steps_done, 1);
      EXPECT_THAT(checkpoint.passed_over, ElementsAre(HasSubstr("step-2/part-2.safetensors: its SHA-256")));
    });
    EXPECT_THAT(messages, testing::Each("")) << readers;
  }
}

TEST_F(CheckpointRanksTest, WithoutThePartOfOneThereIsNoCheckpoint) {
  write_on(3, 1);
  Ranks ranks(3);
  ranks.patience_s = 0.2;
  const auto messages = ranks.run(folder, [&](int rank, CheckpointFolder& checkpoints) {
    Context own_context;
    checkpoints.newest();
    const State state(2);
    std::vector<NamedTensor> tensors = state.of(rank, 3);
    if (rank == 1) tensors.push_back(tensors[0]);
    checkpoints.write(2, tensors, {}, own_context);
    checkpoints.finish();
  });
  EXPECT_THAT(messages, ElementsAre(HasSubstr("step-2: no part of rank 1 after 0 s"),
                                    HasSubstr("two tensors are called 'layer.1"), ""));
  EXPECT_THAT(write_on(3, 3), testing::Each(""));
  EXPECT_THAT(names_in(folder), UnorderedElementsAre("step-1", "step-3"));
}

TEST_F(CheckpointRanksTest, APartThatIsNotThereHasNoRecord) {
  Arena memory(int64_t{64} << 20);
  const NamedTensor large{"large", memory.tensor(1, int64_t{15} << 20, DType::f32)};
  CheckpointFolder checkpoints(folder, {.ranks = {1, 2, [](const std::string& mine) { return std::vector(2, mine); }}});
  checkpoints.write(1, std::span(&large, 1), {}, ctx);  // whose thread has to digest it
  fs::create_directories(folder / "step-1/part-1.safetensors/in the way");
  EXPECT_THAT(message_of([&] { checkpoints.finish(); }), HasSubstr("part-1.safetensors: cannot be put in place"));
  EXPECT_FALSE(fs::exists(folder / "step-1/part-1.json"));
}

// Whatever is killed between these calls, this is what a reader finds.
TEST_F(CheckpointRanksTest, RanksWriteWhenTheyGetThereAndTheLastMakesItWhole) {
  write_on(2, 1), write_on(2, 2);
  const auto folder_of = [&](int rank) {
    return CheckpointFolder(folder, {.ranks = {rank, 2, [](const std::string& mine) { return std::vector(2, mine); }}});
  };
  const auto newest_of_a_copy = [&] {
    const fs::path copy = own.path / "copy";
    fs::remove_all(copy);
    fs::copy(folder, copy, fs::copy_options::recursive);
    const std::optional<Checkpoint> newest = CheckpointFolder(copy).newest();
    EXPECT_TRUE(newest->passed_over.empty());
    return newest->steps_done;
  };
  Context own_context;
  CheckpointFolder first = folder_of(0), second = folder_of(1);
  first.newest();
  for (const int64_t step : {3, 4}) {
    const State state(step);
    first.write(step, state.of(0, 2), {}, own_context);
    while (!fs::exists(folder / fmt::format("step-{}/part-0.json", step))) std::this_thread::yield();
    for (int i = 0; i < 20; ++i) {  // until its folder is synced, too
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
      EXPECT_FALSE(first.poll());
    }
    EXPECT_EQ(newest_of_a_copy(), step - 1);
    second.write(step, state.of(1, 2), {}, own_context);
    second.finish();
    EXPECT_EQ(newest_of_a_copy(), step - 1);
    EXPECT_EQ(names_in(folder).size(), 3u) << "the older ones go when the newer is there";
    EXPECT_TRUE(first.poll());
    EXPECT_EQ(newest_of_a_copy(), step);
    EXPECT_EQ(names_in(folder).size(), 2u);
    EXPECT_THAT(names_in(folder / fmt::format("step-{}", step)),
                UnorderedElementsAre("manifest.json", "part-0.safetensors", "part-1.safetensors"));
  }
}

// A record that a killed write has left must not stand for a part that is written again.
TEST_F(CheckpointRanksTest, OldRecordsGoBeforeAnythingIsWritten) {
  write_on(2, 1), write_on(2, 2);
  write_file_atomically(folder / "step-2/part-1.json", "{}");
  Ranks(2).run(folder, [&](int, CheckpointFolder& checkpoints) { checkpoints.newest(); });
  EXPECT_THAT(names_in(folder / "step-2"),
              UnorderedElementsAre("manifest.json", "part-0.safetensors", "part-1.safetensors"));
}

}  // namespace
}  // namespace tangram
