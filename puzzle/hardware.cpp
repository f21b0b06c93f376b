#include "puzzle/hardware.h"

namespace tangram {

double Hardware::peak(Precision precision) const {
  const size_t kind = precision == Precision::f32 ? 0 : precision == Precision::fp8 ? 2 : 1;
  if (!(flops[kind] > 0)) throw bad_input("hardware {} has no arithmetic in {}", name, name_of(precision));
  return flops[kind];
}

void check_hardware(const Hardware& hardware, const Scenario& scenario) {
  try {
    hardware.peak(scenario.precision);
  } catch (const Error& e) {
    throw bad_input("scenario {}: {}", scenario.name, e.what());
  }
  if (scenario.tensor_parallel > 1 && !(hardware.link_bandwidth > 0))
    throw bad_input("scenario {}: tensor_parallel {} needs a link between devices, and hardware {} has none",
                    scenario.name, scenario.tensor_parallel, hardware.name);
}

}  // namespace tangram
