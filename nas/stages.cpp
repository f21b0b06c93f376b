#include "nas/stages.h"

namespace tangram {

std::span<const Stage> all_stages() {
  static const std::vector<Stage> kStages = {};
  return kStages;
}

}  // namespace tangram
