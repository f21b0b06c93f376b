#pragma once
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>

namespace tangram {

/// Gets a document and the place it comes from, for messages: "stories.jsonl:12", "input.txt".
using DocumentSink = std::function<void(std::string_view text, const std::string& where)>;

/// Gives every document of a text file to `sink`, in order. A line {"text": "…"} of a `.jsonl` file is a document
/// (other keys are ignored, blank lines skipped); a `.txt` file is one document as a whole, since blank lines are part
/// of texts. Throws Error (bad_input) with file and line if the file is missing, has another extension, is not UTF-8,
/// or a line is no JSON object with a string "text".
void read_documents(const std::filesystem::path& file, const DocumentSink& sink);

}  // namespace tangram
