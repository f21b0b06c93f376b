#include "nas/commands.h"

int main(int argc, char** argv) {
  return tangram::run_command_line({argv + 1, argv + argc}, tangram::all_stages(), tangram::all_model_verbs(), stdout,
                                   stderr);
}
