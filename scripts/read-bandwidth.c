/* Reads a large array with all threads, STREAM's way: a plain loop that the compiler vectorises, timed around the
 * parallel region, nothing of it shared with the probe. Prints 1e9 bytes a second, the median of the repetitions.
 * cc -O3 -march=native -ffast-math -funroll-loops -fopenmp -o read-bandwidth read-bandwidth.c; ./read-bandwidth MIB REPETITIONS */
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <omp.h>

static int ascending(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv) {
    if (argc != 3) {
        fprintf(stderr, "usage: read-bandwidth MIB REPETITIONS\n");
        return 2;
    }
    size_t bytes = (size_t)atol(argv[1]) << 20, n = bytes / sizeof(double);
    int repetitions = atoi(argv[2]);
    double *values = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    double *rates = malloc(repetitions * sizeof(double)), total = 0;
    if (values == MAP_FAILED || !rates || repetitions < 1) {
        fprintf(stderr, "no memory\n");
        return 1;
    }
    madvise(values, bytes, MADV_HUGEPAGE);
    /* First touched by the thread that will read it. */
    #pragma omp parallel for schedule(static)
    for (size_t i = 0; i < n; i++) values[i] = 1.0;
    for (int r = 0; r < repetitions; r++) {
        double sum = 0, start = omp_get_wtime();
        #pragma omp parallel for schedule(static) reduction(+:sum)
        for (size_t i = 0; i < n; i++) sum += values[i];
        rates[r] = bytes / (omp_get_wtime() - start) / 1e9;
        total += sum;
    }
    qsort(rates, repetitions, sizeof(double), ascending);
    /* A wrong sum means that the loop was not executed as written. */
    if (total != (double)n * repetitions) return 1;
    printf("%.3f\n", rates[repetitions / 2]);
    return 0;
}
