#include "distill/documents.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>

#include "blocks/json.h"
#include "blocks/unicode.h"
#include "kernels/error.h"

namespace tangram {
namespace {

constexpr int kMaxDepth = 64;  // of what a line may have beside its text

std::ifstream open_file(const std::filesystem::path& path) {
  std::error_code error;
  const bool is_regular = is_regular_file(path, error);
  if (error) throw bad_input("{}: cannot be read: {}", path.string(), error.message());
  if (!is_regular) throw bad_input("{}: is no regular file", path.string());
  std::ifstream file(path, std::ios::binary);
  if (!file) throw bad_input("{}: cannot be read: {}", path.string(), std::strerror(errno));
  return file;
}

void check_read(const std::ifstream& file, const std::filesystem::path& path) {
  if (file.bad()) throw Error(fmt::format("{}: reading broke off", path.string()));
}

Error not_utf8(const std::filesystem::path& path, int64_t line, char byte) {
  return bad_input("{}:{}: not UTF-8 (byte 0x{:02X})", path.string(), line, static_cast<unsigned char>(byte));
}

std::string text_of_line(const std::string& line, const std::string& where) {
  nlohmann::json json = parse_json(line, where, kMaxDepth);
  if (!json.is_object())
    throw bad_input("{}: expected an object {{\"text\": \"…\"}}, found {}", where, json.type_name());
  const auto text = json.find("text");
  if (text == json.end()) throw bad_input("{}: the object has no \"text\"", where);
  if (!text->is_string()) throw bad_input("{}: \"text\" is no string but {}", where, text->type_name());
  return std::move(text->get_ref<std::string&>());
}

void read_jsonl(const std::filesystem::path& path, const DocumentSink& sink) {
  std::ifstream file = open_file(path);
  std::string line;
  for (int64_t number = 1; std::getline(file, line); ++number) {
    if (line.find_first_not_of(" \t\r") == line.npos) continue;
    if (const size_t at = find_invalid_utf8(line); at != line.npos) throw not_utf8(path, number, line[at]);
    const std::string where = fmt::format("{}:{}", path.string(), number);
    sink(text_of_line(line, where), where);
  }
  check_read(file, path);
}

void read_txt(const std::filesystem::path& path, const DocumentSink& sink) {
  std::ifstream file = open_file(path);
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  check_read(file, path);
  if (const size_t at = find_invalid_utf8(text); at != text.npos)
    throw not_utf8(path, 1 + std::count(text.begin(), text.begin() + static_cast<ptrdiff_t>(at), '\n'), text[at]);
  sink(text, path.string());
}

}  // namespace

void read_documents(const std::filesystem::path& file, const DocumentSink& sink) {
  if (file.extension() == ".jsonl") return read_jsonl(file, sink);
  if (file.extension() == ".txt") return read_txt(file, sink);
  throw bad_input("{}: text comes in .jsonl or .txt files", file.string());
}

}  // namespace tangram
