/* How fast one core reads memory: the bound of decoding, which reads all weights
 * for each token. Prints GB/s of the best of several passes over 512 MiB, once as
 * one stream and once as eight that are read side by side; by processor time, so
 * that other programs on the core do not count.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { LANES = 8, STEP = 16, PASSES = 6 };
static const size_t COUNT = (size_t)128 << 20;

typedef float vector __attribute__((vector_size(64), aligned(4)));

static double now(void) {
  struct timespec time;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
  return time.tv_sec + time.tv_nsec * 1e-9;
}

static double pass(const float *data, int lanes) {
  const size_t part = COUNT / lanes;
  vector sums[LANES] = {{0}};
  const double began = now();
  if (lanes == 1) {
    for (size_t i = 0; i < COUNT; i += STEP * LANES)
      for (int lane = 0; lane < LANES; lane++)
        sums[lane] += *(const vector *)(data + i + lane * STEP);
  } else {
    for (size_t i = 0; i < part; i += STEP)
      for (int lane = 0; lane < LANES; lane++)
        sums[lane] += *(const vector *)(data + lane * part + i);
  }
  const double seconds = now() - began;
  volatile float kept = 0; /* So that nothing is left out. */
  for (int lane = 0; lane < LANES; lane++) kept += sums[lane][0];
  return COUNT * sizeof(float) / seconds / 1e9;
}

int main(void) {
  float *data = aligned_alloc(64, COUNT * sizeof(float));
  if (data == NULL) return 1;
  for (size_t i = 0; i < COUNT; i++) data[i] = (float)i;
  double best[2] = {0, 0};
  for (int i = 0; i < 2 * PASSES; i++) {
    const double rate = pass(data, i % 2 ? LANES : 1);
    if (rate > best[i % 2]) best[i % 2] = rate;
  }
  printf("%.1f %.1f\n", best[0], best[1]);
  return 0;
}
