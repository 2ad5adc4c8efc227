/* Reads a large array with all threads in plain loops that the compiler vectorises, timed around the parallel region, nothing
 * of it shared with the probe: in turn STREAM's way, and each thread from four places of its part at once. Prints 1e9 bytes
 * a second, the better one of the two medians over the repetitions.
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
    double *rates[2], total = 0;
    for (int w = 0; w < 2; w++) rates[w] = malloc(repetitions * sizeof(double));
    if (values == MAP_FAILED || !rates[0] || !rates[1] || repetitions < 1) {
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
        rates[0][r] = bytes / (omp_get_wtime() - start) / 1e9;
        start = omp_get_wtime();
        #pragma omp parallel reduction(+:sum)
        {
            size_t part = n / omp_get_num_threads(), place = part / 4;
            const double *mine = values + part * omp_get_thread_num();
            for (size_t i = 0; i < place; i++)
                sum += mine[i] + mine[place + i] + mine[2 * place + i] + mine[3 * place + i];
        }
        rates[1][r] = bytes / (omp_get_wtime() - start) / 1e9;
        total += sum;
    }
    for (int w = 0; w < 2; w++) qsort(rates[w], repetitions, sizeof(double), ascending);
    /* A wrong sum means that the loops were not executed as written; what no four places cover is a few values a thread. */
    double expected = 2.0 * n * repetitions;
    if (total > expected || total < expected - 64.0 * repetitions * omp_get_max_threads()) return 1;
    double *one = rates[0], *four = rates[1];
    printf("%.3f\n", one[repetitions / 2] > four[repetitions / 2] ? one[repetitions / 2] : four[repetitions / 2]);
    return 0;
}
