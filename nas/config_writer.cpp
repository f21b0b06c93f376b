#include "nas/config_writer.h"

namespace tangram {

void ConfigWriter::line(std::string_view key, std::string_view value) {
  std::string indent(static_cast<size_t>(2 * depth_), ' ');
  if (starts_item_) indent[indent.size() - 2] = '-';
  starts_item_ = false;
  yaml += fmt::format("{}{}:{}{}\n", indent, key, value.empty() ? "" : " ", value);
}

void ConfigWriter::open(std::string_view key) {
  line(key, "");
  depth_ += 1;
}

}  // namespace tangram
