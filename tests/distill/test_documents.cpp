#include "distill/documents.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <vector>

#include "kernels/error.h"

namespace tangram {
namespace {

/// A file that is gone after the test.
class DocumentFile : public testing::Test {
 protected:
  std::filesystem::path write(const std::string& name, std::string_view content) {
    std::ofstream(folder_ / name, std::ios::binary) << content;
    return folder_ / name;
  }
  void SetUp() override {
    folder_ = std::filesystem::path(testing::TempDir()) /
              (std::string("tangram-documents-") + testing::UnitTest::GetInstance()->current_test_info()->name());
    create_directories(folder_);
  }
  void TearDown() override { remove_all(folder_); }

  std::vector<std::string> texts(const std::filesystem::path& file) {
    std::vector<std::string> result;
    read_documents(file, [&](std::string_view text, const std::string&) { result.emplace_back(text); });
    return result;
  }
  void expect_refused(const std::filesystem::path& file, const std::string& part) {
    try {
      texts(file);
      ADD_FAILURE() << "not refused: " << part;
    } catch (const Error& e) {
      EXPECT_EQ(e.failure, Failure::bad_input) << e.what();
      EXPECT_THAT(e.what(), testing::HasSubstr(part));
    }
  }
  std::filesystem::path folder_;
};

TEST_F(DocumentFile, JsonLines) {
  const auto file = write("a.jsonl",
                          "{\"text\": \"one\\ntwo \\u00e9\"}\n\n  \r\n"
                          "{\"id\": 3, \"text\": \"\"}\r\n{\"text\":\"last\", \"more\": [1, {\"text\": 2}]}");
  EXPECT_THAT(texts(file), testing::ElementsAre("one\ntwo \u00e9", "", "last"));
  std::vector<std::string> places;
  read_documents(file, [&](std::string_view, const std::string& where) { places.push_back(where); });
  EXPECT_THAT(places, testing::ElementsAre(file.string() + ":1", file.string() + ":4", file.string() + ":5"));
}

TEST_F(DocumentFile, PlainTextIsOneDocument) {
  EXPECT_THAT(texts(write("a.txt", "one\n\ntwo\n")), testing::ElementsAre("one\n\ntwo\n"));
}

TEST_F(DocumentFile, RefusalsNameFileAndLine) {
  expect_refused(folder_ / "missing.jsonl", "missing.jsonl: cannot be read: No such file or directory");
  expect_refused(write("a.csv", "x"), "a.csv: text comes in .jsonl or .txt files");
  expect_refused(write("a.jsonl", "{\"text\": \"a\"}\n{\"text\": \"a\"\n"),
                 "a.jsonl:2: parse error at line 1, column 13: ");
  expect_refused(write("b.jsonl", "{\"text\": \"a\"}\n[1]\n"), "b.jsonl:2: expected an object");
  expect_refused(write("c.jsonl", "\n{\"txt\": \"a\"}\n"), "c.jsonl:2: the object has no \"text\"");
  expect_refused(write("d.jsonl", "{\"text\": 7}\n"), "d.jsonl:1: \"text\" is no string but number");
  expect_refused(write("e.jsonl", "{\"text\": \"a\"}\n{\"text\": \"\xff\"}\n"), "e.jsonl:2: not UTF-8 (byte 0xFF)");
  expect_refused(write("f.jsonl", "{\"text\": \"\\ud800\"}\n"), "f.jsonl:1: parse error");
  expect_refused(write("i.jsonl", "{\"text\": \"a\", \"text\": \"b\"}\n"),
                 "i.jsonl:1: the key 'text' stands there twice");
  expect_refused(write("g.txt", "one\ntwo\nthr\xc3\x28\n"), "g.txt:3: not UTF-8 (byte 0xC3)");
  create_directories(folder_ / "h.txt");
  expect_refused(folder_ / "h.txt", "h.txt: is no regular file");
}

TEST_F(DocumentFile, DeepNestingIsNoCrash) {
  const std::string open(1 << 17, '['), closed = open + std::string(1 << 17, ']');
  expect_refused(write("a.jsonl", open), "a.jsonl:1: nested deeper than 64 levels");
  expect_refused(write("b.jsonl", closed), "b.jsonl:1: nested deeper than 64 levels");
  expect_refused(write("c.jsonl", "{\"more\": " + closed + "}"), "c.jsonl:1: nested deeper than 64 levels");
}

}  // namespace
}  // namespace tangram
