#include "blocks/checkpoint.h"
#include "blocks/file.h"
#include "nas/architecture_file.h"
#include "nas/model_export.h"
#include "nas/run_files.h"
#include "nas/stages.h"

namespace tangram {

std::vector<std::filesystem::path> run_export(const StageInput& in) {
  std::vector<std::filesystem::path> written;
  const std::filesystem::path tokenizer = teacher_path(in.config, in.run_dir);
  for (const ChosenArchitecture& chosen : read_architectures(architecture_path(in.run_dir, "any").parent_path())) {
    if (!is_healed(chosen)) continue;
    const Model student = load_model(student_path(in.run_dir, chosen.name));
    const std::string servers = servers_summary(student.architecture(), student.config);
    in.console.say("export {}:\n{}", chosen.name, servers.substr(0, servers.size() - 1));
    written.push_back(servers_path(in.run_dir, chosen.name));
    std::filesystem::create_directories(written.back().parent_path());
    write_file_atomically(written.back(), servers);
    for (const ExportFormat format : in.config.exports) {
      written.push_back(export_path(in.run_dir, chosen.name, format));
      export_model(written.back(), student, format,
                   {.tokenizer_from = tokenizer, .name = chosen.name, .threads = in.ctx.threads}, in.console);
    }
  }
  return written;
}

}  // namespace tangram
