#pragma once
#include "nas/config.h"
#include "nas/model_verbs.h"
#include "puzzle/hardware.h"

namespace tangram {

/// A first description of this machine: its peaks measured now, its efficiencies guessed with wide error bars.
Hardware describe_this_machine(Context& ctx);

/// Fits describe_this_machine to all that the run's score table has measured, writes the result to calibrated.yaml in
/// the run's folder, and prints what was measured beside what is modelled before and after. Throws Error (bad_input)
/// where nothing was measured.
void calibrate_hardware(const SearchConfig& config, Context& ctx, const VerbInput& in);

}  // namespace tangram
