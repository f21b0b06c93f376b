#include "blocks/file.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <csignal>
#include <random>

#include "blocks/sha256.h"
#include "kernels/error.h"
#include "tests/blocks/folder.h"

namespace tangram {
namespace {

namespace fs = std::filesystem;

std::vector<std::string> names_in(const fs::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) names.push_back(entry.path().filename());
  std::sort(names.begin(), names.end());
  return names;
}

using Names = std::vector<std::string>;

TEST(MappedFile, ShowsTheBytesOfAFile) {
  const TestFolder folder;
  std::string content(100'000, 'x');
  content[70'000] = '\0';
  write_text(folder.path / "a", content);
  const MappedFile file(folder.path / "a");
  EXPECT_EQ(file.bytes(), content);
  write_text(folder.path / "empty", "");
  EXPECT_EQ(MappedFile(folder.path / "empty").bytes(), "");
}

TEST(MappedFile, SurvivesAReplacementOfTheFile) {
  const TestFolder folder;
  write_text(folder.path / "a", "old");
  const MappedFile file(folder.path / "a");
  write_file_atomically(folder.path / "a", "new content");
  EXPECT_EQ(file.bytes(), "old");
}

TEST(MappedFile, RefusesWhatIsNoFile) {
  const TestFolder folder;
  EXPECT_EQ(message_of([&] { MappedFile file(folder.path / "none"); }),
            (folder.path / "none").string() + ": cannot be read: No such file or directory");
  EXPECT_EQ(message_of([&] { MappedFile file(folder.path); }), folder.path.string() + ": is no regular file");
}

TEST(ReadTextFile, ReadsUpToTheLimit) {
  const TestFolder folder;
  const std::string content(100'000, 'y');
  write_text(folder.path / "a", content);
  EXPECT_EQ(read_text_file(folder.path / "a", 100'000), content);
  EXPECT_EQ(message_of([&] { read_text_file(folder.path / "a", 99'999); }),
            (folder.path / "a").string() + ": larger than the 99999 bytes that are allowed");
  EXPECT_EQ(message_of([&] { read_text_file(folder.path, 10); }),
            folder.path.string() + ": cannot be read: Is a directory");
  EXPECT_THROW(read_text_file(folder.path / "none", 10), Error);
}

TEST(AtomicFile, AppearsOnlyWhenCommitted) {
  const TestFolder folder;
  const fs::path path = folder.path / "a.bin";
  write_text(path, "old");
  {
    AtomicFile file(path);
    file.write("new ");
    file.write("content");
    EXPECT_EQ(read_text_file(path, 100), "old");
    EXPECT_EQ(names_in(folder.path), (Names{fmt::format(".a.bin.{}.tmp", getpid()), "a.bin"}));
    file.commit();
    EXPECT_THROW(file.write("more"), Error);
  }
  EXPECT_EQ(read_text_file(path, 100), "new content");
  EXPECT_EQ(names_in(folder.path), Names{"a.bin"});
}

TEST(AtomicFile, LeavesNothingWithoutCommit) {
  const TestFolder folder;
  { AtomicFile(folder.path / "a").write("half"); }
  EXPECT_EQ(names_in(folder.path), Names{});
}

TEST(AtomicFile, NamesTheFileThatCannotBeWritten) {
  const TestFolder folder;
  const fs::path path = folder.path / "none" / "a";
  EXPECT_EQ(
      message_of([&] { write_file_atomically(path, "x"); }),
      fmt::format("{}/none/.a.{}.tmp: cannot be created: No such file or directory", folder.path.string(), getpid()));
  fs::create_directory(folder.path / "taken");
  EXPECT_EQ(message_of([&] { write_file_atomically(folder.path / "taken", "x"); }),
            (folder.path / "taken").string() + ": cannot be put in place: Is a directory");
  EXPECT_EQ(names_in(folder.path), Names{"taken"});
}

// A limit on the size of files stands for a full disk: write fails in the same place, with another errno.
TEST(AtomicFile, LeavesTheOldContentOnAFullDisk) {
  const TestFolder folder;
  const fs::path path = folder.path / "a";
  write_text(path, "old");
  rlimit limit;
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &limit), 0);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit small{.rlim_cur = 1 << 16, .rlim_max = limit.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  const std::string message = message_of([&] {
    AtomicFile file(path);
    file.write(std::string(1000, 'x'));
    file.write(std::string(200'000, 'x'));
    file.commit();
  });
  setrlimit(RLIMIT_FSIZE, &limit);
  std::signal(SIGXFSZ, handler);
  EXPECT_EQ(message, path.string() + ": cannot write 200000 bytes after 1000: File too large");
  EXPECT_EQ(read_text_file(path, 100), "old");
  EXPECT_EQ(names_in(folder.path), Names{"a"});
}

TEST(AtomicFile, SaysThatTheDiskIsFull) {
  if (!fs::exists("/dev/full")) GTEST_SKIP() << "there is no /dev/full";
  const TestFolder folder;
  const fs::path path = folder.path / "a";
  fs::create_symlink("/dev/full", folder.path / fmt::format(".a.{}.tmp", getpid()));
  EXPECT_EQ(message_of([&] { write_file_atomically(path, "some bytes"); }),
            path.string() + ": cannot write 10 bytes after 0: No space left on device");
  EXPECT_EQ(names_in(folder.path), Names{});
}

TEST(AtomicFolder, AppearsOnlyWhenCommitted) {
  const TestFolder folder;
  const fs::path target = folder.path / "deep" / "student";
  {
    AtomicFolder student(target / "");  // with a slash at the end
    write_text(student.path() / "a", "new");
    EXPECT_FALSE(fs::exists(target));
    student.commit();
    EXPECT_THROW(student.commit(), Error);
  }
  EXPECT_EQ(names_in(folder.path / "deep"), Names{"student"});
  EXPECT_EQ(read_text_file(target / "a", 100), "new");
}

TEST(AtomicFolder, ReplacesAnOlderOne) {
  const TestFolder folder;
  const fs::path target = folder.path / "student";
  fs::create_directory(target);
  write_text(target / "old", "old");
  { AtomicFolder student(target); }
  EXPECT_EQ(names_in(target), Names{"old"});
  AtomicFolder student(target);
  write_text(student.path() / "new", "new");
  student.commit();
  EXPECT_EQ(names_in(target), Names{"new"});
  EXPECT_EQ(names_in(folder.path), Names{"student"});
}

TEST(AtomicFolder, IsRefusedWhereAFileStands) {
  const TestFolder folder;
  write_text(folder.path / "a", "file");
  EXPECT_EQ(message_of([&] { AtomicFolder(folder.path / "a").commit(); }),
            (folder.path / "a").string() + ": cannot be put in place: Not a directory");
  EXPECT_EQ(names_in(folder.path), Names{"a"});
}

// Oracle: the examples of FIPS 180-2, appendix B, and coreutils' sha256sum for lengths about a block.
TEST(Sha256, AgreesWithTheStandardsExamples) {
  EXPECT_EQ(digest_bytes(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(digest_bytes("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(digest_bytes("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"),
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  EXPECT_EQ(digest_bytes(std::string(1'000'000, 'a')),
            "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
  EXPECT_EQ(digest_bytes(std::string(55, 'x')), "d5e285683cd4efc02d021a5c62014694958901005d6f71e89e0989fac77e4072");
  EXPECT_EQ(digest_bytes(std::string(63, 'x')), "75220b47218278e656f2013bb8f0c455a25eaf01e86c64924e9d48d89776d6f2");
  EXPECT_EQ(digest_bytes(std::string(64, 'x')), "7ce100971f64e7001e8fe5a51973ecdfe1ced42befe7ee8d5fd6219506b5393c");
}

TEST(Sha256, InstructionsTakeABlockAsPortableCodeDoes) {
  if (!has_sha_instructions()) GTEST_SKIP() << "this processor has none";
  std::mt19937 random(7);
  for (int round = 0; round < 1000; ++round) {
    Sha256State portable;
    std::array<uint32_t, 16> block;
    for (uint32_t& word : portable) word = uint32_t(random());
    for (uint32_t& word : block) word = uint32_t(random());
    Sha256State by_instructions = portable;
    const auto* bytes = reinterpret_cast<const unsigned char*>(block.data());
    sha256_block_portable(portable, bytes), sha256_block_by_instructions(by_instructions, bytes);
    ASSERT_EQ(portable, by_instructions) << round;
  }
}

TEST(Sha256, DoesNotDependOnThePieces) {
  std::string bytes(1000, 'q');
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = char(i * i);
  for (const size_t piece : {1, 63, 64, 65, 999}) {
    Sha256 hash;
    for (size_t i = 0; i < bytes.size(); i += piece) hash.add(std::string_view(bytes).substr(i, piece));
    EXPECT_EQ(hash.finish(), digest_bytes(bytes)) << piece;
  }
  const TestFolder folder;
  write_text(folder.path / "a", bytes);
  EXPECT_EQ(digest_file(folder.path / "a"), digest_bytes(bytes));
}

}  // namespace
}  // namespace tangram
