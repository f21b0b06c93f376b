#include "nas/model_verbs.h"

#include <vector>

namespace tangram {

std::span<const ModelVerb> all_model_verbs() {
  static const std::vector<ModelVerb> kVerbs = {
      {"logits", "Write a model's logits for given tokens, and print its loss on them",
       "tangram logits models/llama --tokens ids.safetensors --output logits.safetensors", add_logits},
      {"generate", "Continue a prompt", "tangram generate models/llama \"Once upon a time\" --max-tokens 100",
       add_generate},
      {"evaluate", "Measure a model's loss on a text, and how far it is from a teacher",
       "tangram evaluate students/small --data valid.jsonl --teacher models/llama", add_evaluate},
      {"bench", "Measure a model's speed beside what this machine can do",
       "tangram bench models/llama --prompt-tokens 512 --output-tokens 64", add_bench},
      {"export", "Write a model in another form, or say which servers run it",
       "tangram export models/student --check all\n  tangram export models/student --for vllm --out student-vllm\n  "
       "tangram export models/student --format gguf_q8_0 --out student.gguf",
       add_export},
      {"inspect", "Show what is in a model folder, a score table or a run directory",
       "tangram inspect runs/quickstart/scores.h5", add_inspect},
      {"plan", "Say what memory, disk and time a search takes, without running it",
       "tangram plan configs/llama-3.1-70b.yaml --gpu h200", add_plan},
      {"search", "Find the best student under limits, from a score table alone",
       "tangram search runs/quickstart/scores.h5 --limit memory=60% --limit throughput=1.5x", add_search},
      {"import-scores", "Make a score table from comma-separated values, such as another tool's",
       "tangram import-scores scores.csv --scenario chat=128/128/64 --out scores.h5", add_import_scores},
      {"submit", "Submit a whole run to Slurm, as a chain of jobs", "tangram submit configs/tiny.yaml --nodes 3",
       add_submit},
      {"status", "Show how far a run is, from its files", "tangram status runs/tiny", add_status},
      {"doctor", "Say on what a job or this process runs, how fast its links are, and what is wrong",
       "tangram doctor\n  srun --mpi=pmix tangram doctor --folder runs", add_doctor},
  };
  return kVerbs;
}

}  // namespace tangram
