/* Classify rows of token ids with an exported ONNX file and onnxruntime's C API.

   cc classify.c -I ORT/include -L ORT/lib -lonnxruntime -Wl,-rpath,ORT/lib -o classify
   echo "101 2023 2003 2204 102" | ./classify onnx/model.onnx 0

   ORT is a release of onnxruntime, PAD the tokenizer's padding token. A line holds the ids of a row, special tokens
   included; of a pair, the ids of the second text follow a bar: 101 7592 102 | 2088 102. One line of logits a row. */
#include <onnxruntime_c_api.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ROWS = 256, TOKENS = 512 };
static const OrtApi *ort;
static int64_t ids[ROWS][TOKENS], types[ROWS][TOKENS];
static size_t lengths[ROWS], rows, longest;

static void check(OrtStatus *status) {
  if (!status) return;
  fprintf(stderr, "%s\n", ort->GetErrorMessage(status));
  exit(1);
}

static void read_rows(void) {
  for (char line[16 * TOKENS]; rows < ROWS && fgets(line, sizeof line, stdin); rows++) {
    int64_t type = 0;
    for (char *word = strtok(line, " \n"); word && lengths[rows] < TOKENS; word = strtok(NULL, " \n")) {
      if (*word == '|') { type = 1; continue; }
      types[rows][lengths[rows]] = type;
      ids[rows][lengths[rows]++] = strtoll(word, NULL, 10);
    }
    if (lengths[rows] > longest) longest = lengths[rows];
  }
}

/* Fill a padded batch (rows, longest) with what the model calls `name`. */
static void fill(const char *name, int64_t pad, int64_t *out) {
  int is_ids = !strcmp(name, "input_ids"), is_mask = !strcmp(name, "attention_mask");
  for (size_t row = 0; row < rows; row++)
    for (size_t i = 0; i < longest; i++)
      *out++ = i >= lengths[row] ? (is_ids ? pad : 0) : is_ids ? ids[row][i] : is_mask ? 1 : types[row][i];
}

int main(int argc, char **argv) {
  if (argc != 3) return fprintf(stderr, "usage: classify MODEL PAD < ROWS\n"), 2;
  ort = OrtGetApiBase()->GetApi(ORT_API_VERSION);
  read_rows();
  OrtEnv *env; OrtSessionOptions *options; OrtSession *session; OrtAllocator *allocator; OrtMemoryInfo *memory;
  check(ort->CreateEnv(ORT_LOGGING_LEVEL_WARNING, "classify", &env));
  check(ort->CreateSessionOptions(&options));
  check(ort->SetIntraOpNumThreads(options, 1));
  check(ort->CreateSession(env, argv[1], options, &session));
  check(ort->GetAllocatorWithDefaultOptions(&allocator));
  check(ort->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &memory));
  size_t count;
  char *names[3]; OrtValue *inputs[3], *output = NULL;
  static int64_t batches[3][ROWS * TOKENS];
  check(ort->SessionGetInputCount(session, &count));
  for (size_t i = 0; i < count && i < 3; i++) {
    check(ort->SessionGetInputName(session, i, allocator, &names[i]));
    fill(names[i], atoll(argv[2]), batches[i]);
    check(ort->CreateTensorWithDataAsOrtValue(memory, batches[i], rows * longest * sizeof(int64_t),
        (int64_t[]){rows, longest}, 2, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64, &inputs[i]));
  }
  check(ort->Run(session, NULL, (const char *const *)names, (const OrtValue *const *)inputs, count,
      (const char *[]){"logits"}, 1, &output));
  float *logits; OrtTensorTypeAndShapeInfo *shape; size_t values;
  check(ort->GetTensorMutableData(output, (void **)&logits));
  check(ort->GetTensorTypeAndShape(output, &shape));
  check(ort->GetTensorShapeElementCount(shape, &values));
  for (size_t i = 0; i < values; i++) printf("%.9g%c", logits[i], (i + 1) % (values / rows) ? ' ' : '\n');
  return 0;
}
