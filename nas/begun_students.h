#pragma once
#include <filesystem>
#include <string>
#include <vector>

#include "distill/checkpoint_folder.h"
#include "kernels/communicator.h"

namespace tangram {

/// Students of an earlier call whose newest state is in one checkpoint: they stand at the same step.
struct BegunStudents {
  std::filesystem::path folder;  ///< of checkpoints
  Checkpoint checkpoint;
  std::vector<size_t> places;  ///< in the list of columns, ascending
};

/// What earlier calls, on whatever ranks, have left in the folders of checkpoints in `work`. Students are told apart by
/// the columns of the curve that they have in a checkpoint. Folders in which all students are behind where they are in
/// another are removed. A collective.
std::vector<BegunStudents> begun_students(const std::filesystem::path& work, const std::vector<std::string>& columns,
                                          Communicator& world);

/// A folder of checkpoints in `work` that none of them has: checkpoint, checkpoint-1, and so on.
std::filesystem::path new_checkpoint_folder(const std::filesystem::path& work,
                                            const std::vector<std::filesystem::path>& taken);

}  // namespace tangram
