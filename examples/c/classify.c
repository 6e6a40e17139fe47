/* Classify rows of token ids with an exported ONNX file and onnxruntime's C API.

   cc classify.c -I ORT/include -L ORT/lib -lonnxruntime -Wl,-rpath,ORT/lib -o classify
   echo "101 2023 2003 2204 102" | ./classify onnx/model.onnx 0

   ORT is an unpacked release of onnxruntime, 0 the id of the padding token. A line holds the ids of a row, special
   tokens included; in a pair a bar stands before the second text: 101 7592 102 | 2088 102. A row gives a line of logits. */
#include <onnxruntime_c_api.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ROWS = 256, TOKENS = 512, INPUTS = 3 };
static int64_t ids[ROWS][TOKENS], types[ROWS][TOKENS], filled[INPUTS][ROWS * TOKENS];
static size_t lengths[ROWS], rows, longest;
static const OrtApi *ort;

static void check(OrtStatus *status) {
  if (status) exit((fprintf(stderr, "%s\n", ort->GetErrorMessage(status)), 1));
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

/* Fill a batch (rows, longest) with what the model calls `name`, padded at the end of every row. */
static void fill(const char *name, int64_t pad, int64_t *out) {
  int is_ids = !strcmp(name, "input_ids"), is_mask = !strcmp(name, "attention_mask");
  for (size_t row = 0; row < rows; row++)
    for (size_t i = 0; i < longest; i++)
      *out++ = i >= lengths[row] ? (is_ids ? pad : 0) : is_ids ? ids[row][i] : is_mask ? 1 : types[row][i];
}

int main(int argc, char **argv) {
  OrtEnv *env; OrtSessionOptions *options; OrtSession *session; OrtAllocator *allocator; OrtMemoryInfo *memory;
  OrtValue *inputs[INPUTS], *output = NULL; OrtTensorTypeAndShapeInfo *shape;
  char *names[INPUTS]; float *logits; size_t count, values;
  ort = OrtGetApiBase()->GetApi(ORT_API_VERSION); /* NULL where the library is older than the header */
  if (argc != 3 || !ort) return fprintf(stderr, "usage: classify MODEL PAD < ROWS\n"), 2;
  read_rows();
  check(ort->CreateEnv(ORT_LOGGING_LEVEL_WARNING, "classify", &env));
  check(ort->CreateSessionOptions(&options));
  check(ort->CreateSession(env, argv[1], options, &session));
  check(ort->GetAllocatorWithDefaultOptions(&allocator));
  check(ort->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &memory));
  check(ort->SessionGetInputCount(session, &count));
  for (size_t i = 0; i < count && i < INPUTS; i++) {
    check(ort->SessionGetInputName(session, i, allocator, &names[i]));
    fill(names[i], atoll(argv[2]), filled[i]);
    check(ort->CreateTensorWithDataAsOrtValue(memory, filled[i], rows * longest * sizeof(int64_t),
        (int64_t[]){(int64_t)rows, (int64_t)longest}, 2, ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64, &inputs[i]));
  }
  check(ort->Run(session, NULL, (const char *const *)names, (const OrtValue *const *)inputs, count,
      (const char *[]){"logits"}, 1, &output));
  check(ort->GetTensorMutableData(output, (void **)&logits));
  check(ort->GetTensorTypeAndShape(output, &shape));
  check(ort->GetTensorShapeElementCount(shape, &values));
  for (size_t i = 0; i < values; i++) printf("%.9g%c", logits[i], (i + 1) % (values / rows) ? ' ' : '\n');
}
