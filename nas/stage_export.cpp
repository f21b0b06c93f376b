#include "blocks/checkpoint.h"
#include "nas/architecture_file.h"
#include "nas/run_files.h"
#include "nas/stages.h"

namespace tangram {

std::vector<std::filesystem::path> run_export(const StageInput& in) {
  std::vector<std::filesystem::path> folders;
  for (const ChosenArchitecture& chosen : read_architectures(architecture_path(in.run_dir, "any").parent_path())) {
    if (!is_healed(chosen)) continue;
    for (const ExportFormat format : in.config.exports) {
      CHECK(format == ExportFormat::huggingface, "unknown export format");
      folders.push_back(export_path(in.run_dir, chosen.name));
      save_model(folders.back(), load_model(student_path(in.run_dir, chosen.name)),
                 {.tokenizer_from = teacher_path(in.config, in.run_dir)});
    }
  }
  return folders;
}

}  // namespace tangram
