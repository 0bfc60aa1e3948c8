/* Log-densities, or quantiles, from an exported model through TensorFlow's C API, without Python.

   The headers and libraries are those of the Python package of TensorFlow:

     TF=$(python -c "import tensorflow as tf; print(tf.sysconfig.get_lib())")
     gcc examples/log_prob.c -o log_prob -I$TF/include $TF/libtensorflow_cc.so.2 \
         $TF/libtensorflow_framework.so.2 -Wl,-rpath,$TF
     saved_model_cli show --dir density/1 --tag_set serve --signature_def log_prob
     echo "0.5 -1.0  2.0 0.3" | ./log_prob density/1 log_prob_x:0 StatefulPartitionedCall:0 2

   The arguments are the model, its input and output as saved_model_cli shows them, and the size of
   an event, or 0 for a signature that takes single numbers, as `quantile` does. It reads events and
   prints one number for each: of `log_prob`, the log-density in nats. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <tensorflow/c/c_api.h>

static TF_Status *status;

static void check(const char *what) {
  if (TF_GetCode(status) == TF_OK) return;
  fprintf(stderr, "%s: %s\n", what, TF_Message(status));
  exit(1);
}

static TF_Output find(TF_Graph *graph, const char *name) {
  char operation[256];
  int index = 0;
  if (sscanf(name, "%255[^:]:%d", operation, &index) < 1) operation[0] = 0;
  TF_Output output = {TF_GraphOperationByName(graph, operation), index};
  if (output.oper != NULL) return output;
  fprintf(stderr, "The model has no tensor %s.\n", name);
  exit(1);
}

int main(int argc, char **argv) {
  if (argc != 5 || atoi(argv[4]) < 0) {
    fprintf(stderr, "Usage: %s MODEL INPUT OUTPUT EVENT_SIZE < events\n", argv[0]);
    return 1;
  }
  int64_t size = atoi(argv[4]), count = 0, capacity = 0;
  float *values = NULL, value;
  while (scanf("%f", &value) == 1) {
    if (count == capacity) values = realloc(values, (capacity = 2 * capacity + 1) * sizeof value);
    values[count++] = value;
  }
  int64_t width = size > 0 ? size : 1;
  if (count % width != 0 || !feof(stdin)) {
    fprintf(stderr, "Expected rows of %d numbers. Received: %d numbers%s.\n", (int)width, (int)count,
            feof(stdin) ? "" : ", and what is none");
    return 1;
  }

  status = TF_NewStatus();
  TF_Graph *graph = TF_NewGraph();
  TF_SessionOptions *options = TF_NewSessionOptions();
  const char *tags[] = {"serve"};
  TF_Session *session =
      TF_LoadSessionFromSavedModel(options, NULL, argv[1], tags, 1, graph, NULL, status);
  check("Cannot load the model");

  int64_t shape[] = {count / width, width};
  TF_Tensor *events = TF_AllocateTensor(TF_FLOAT, shape, size > 0 ? 2 : 1, count * sizeof value);
  if (count > 0) memcpy(TF_TensorData(events), values, count * sizeof value);
  TF_Output input = find(graph, argv[2]), output = find(graph, argv[3]);
  TF_Tensor *answer = NULL;
  TF_SessionRun(session, NULL, &input, &events, 1, &output, &answer, 1, NULL, 0, NULL, status);
  check("Cannot run the model");
  const float *results = TF_TensorData(answer);
  int64_t rows = TF_Dim(answer, 0);
  for (int64_t i = 0; i < rows; i++) printf("%.9g\n", results[i]);

  TF_DeleteTensor(answer);
  TF_DeleteTensor(events);
  free(values);
  TF_CloseSession(session, status);
  TF_DeleteSession(session, status);
  TF_DeleteSessionOptions(options);
  TF_DeleteGraph(graph);
  TF_DeleteStatus(status);
  return 0;
}
