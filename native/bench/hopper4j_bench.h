/*
 * What the benchmarks need beside the library: yardsticks, peers, timers and probes. Nothing of this is in libhopper4j; nothing in libhopper4j needs it.
 *
 * CUPTI, NVML and cuBLASLt are opened at run time, never linked. They are looked for in the folders of the environment variable HOPPER4J_PEER_PATH
 * (colon-separated; of each folder also nvidia/<any>/lib, as Python's wheels lay them out), in $CUDA_HOME/lib64 and $CUDA_HOME/extras/CUPTI/lib64, by the
 * system's loader, and in the same two folders of /usr/local/cuda and of each /usr/local/cuda-<any>.
 *
 * Every function that answers an int32_t answers 0 when done. Otherwise it writes why to `why`, which has room for H4J_BENCH_TEXT bytes.
 * Streams are CUstreams of the device's primary context, device memory is an address, both as uint64_t. One thread at a time uses a session.
 */
#ifndef HOPPER4J_BENCH_H
#define HOPPER4J_BENCH_H

#include <stdint.h>

#if defined(__GNUC__)
#define H4J_BENCH_API __attribute__((visibility("default")))
#else
#define H4J_BENCH_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define H4J_BENCH_VERSION 1
#define H4J_BENCH_TEXT 512

/* H4J_BENCH_VERSION as the library was built with. */
H4J_BENCH_API int32_t h4j_bench_version(void);

/* ---- Session ------------------------------------------------------------------------------------------------------------------------------ */

typedef struct h4j_bench_session h4j_bench_session;

/* Opens a device: takes the flush buffers (1.25 GiB) and makes kernel tracing ready, so it should come before the device's first kernel. */
H4J_BENCH_API int32_t h4j_bench_open(int32_t ordinal, h4j_bench_session** session, char* why);
H4J_BENCH_API void h4j_bench_close(h4j_bench_session* session);

/* Empties the L2 of what a repetition left there: writes `write_bytes` (at most 1 GiB), then reads `read_bytes` (at most 256 MiB) of other memory.
 * After a write alone the L2 is dirty, and the next kernel pays for the write-back. Asynchronous; safe under capture. */
H4J_BENCH_API int32_t h4j_bench_flush(h4j_bench_session* session, uint64_t stream, int64_t write_bytes, int64_t read_bytes, char* why);

/* A plain copy of a multiple of 16 bytes by a kernel on all SMs. Asynchronous. */
H4J_BENCH_API int32_t h4j_bench_copy(h4j_bench_session* session, uint64_t stream, uint64_t to, uint64_t from, int64_t bytes, char* why);

/* Reads a multiple of 16 bytes by a kernel on all SMs and keeps nothing. Asynchronous. */
H4J_BENCH_API int32_t h4j_bench_read_all(h4j_bench_session* session, uint64_t stream, uint64_t from, int64_t bytes, char* why);

/* ---- Kernel times by CUPTI ---------------------------------------------------------------------------------------------------------------- */

/* 0: kernel times can be collected; otherwise `why`. */
H4J_BENCH_API int32_t h4j_bench_trace_available(h4j_bench_session* session, char* why);
/* From now on each kernel's start and end are recorded. */
H4J_BENCH_API int32_t h4j_bench_trace_begin(h4j_bench_session* session, char* why);
/* Waits for the device and ends recording. Kernels between two flushes make one repetition; kernels before the first flush are left out.
 * For repetition i, span_us[i] is from the first kernel's start to the last one's end, sum_us[i] the sum of the kernels' times and kernels[i] their number.
 * At most `capacity` repetitions are written; *repetitions says how many there were. */
H4J_BENCH_API int32_t h4j_bench_trace_end(h4j_bench_session* session, int32_t capacity, double* span_us, double* sum_us, int32_t* kernels,
                                          int32_t* repetitions, char* why);

/* ---- Bandwidth ---------------------------------------------------------------------------------------------------------------------------- */

#define H4J_BENCH_READ 0       /* 16-byte loads; GB/s counts bytes read */
#define H4J_BENCH_COPY 1       /* 16-byte loads and stores, with all SMs the driver's own copy; GB/s counts bytes read and written */
#define H4J_BENCH_PEER_STORE 2 /* 16-byte stores to the peer; GB/s counts bytes a direction */
#define H4J_BENCH_PEER_LOAD 3  /* 16-byte loads from the peer; GB/s counts bytes a direction */

/* Median of `repetitions` transfers of 1 GiB (of 256 MiB to a peer) by `sms` SMs, taken by events. Peers: `directions` is 1 or 2, both at once;
 * the slower counts. `peer` is the other device's ordinal, not used for H4J_BENCH_READ and H4J_BENCH_COPY. */
H4J_BENCH_API int32_t h4j_bench_bandwidth(h4j_bench_session* session, int32_t kind, int32_t sms, int32_t directions, int32_t peer,
                                          int32_t repetitions, double* gbs, char* why);
/* The same for 16-byte stores from each of `count` devices (2 to 64) to every other, all at once: GB/s that leave a device. Each device's SMs are shared out among
 * its peers, at least one each; the slowest of all transfers counts. */
H4J_BENCH_API int32_t h4j_bench_all_to_all(const int32_t* ordinals, int32_t count, int32_t sms, int32_t repetitions, double* gbs, char* why);
/* Median microseconds that an empty kernel takes between two events: what events cost by themselves. */
H4J_BENCH_API int32_t h4j_bench_empty_kernel(h4j_bench_session* session, double* us, char* why);

/* ---- Several ranks ------------------------------------------------------------------------------------------------------------------------ */

typedef struct h4j_bench_meeting h4j_bench_meeting;
/* A place where streams of 1 to 64 ranks meet; `ordinals` are the ranks' devices, several ranks may have the same. */
H4J_BENCH_API int32_t h4j_bench_meeting_open(const int32_t* ordinals, int32_t ranks, h4j_bench_meeting** meeting, char* why);
/* What is given to the rank's stream from now on begins when every rank has come here as often. A rank that does not come is waited for some seconds.
 * Asynchronous. */
H4J_BENCH_API int32_t h4j_bench_meet(h4j_bench_meeting* meeting, int32_t rank, uint64_t stream, char* why);
H4J_BENCH_API void h4j_bench_meeting_close(h4j_bench_meeting* meeting);

/* ---- cuBLASLt: D = A B^T --------------------------------------------------------------------------------------------------------------- */

#define H4J_BENCH_FP8_PER_TENSOR 0 /* one scale of 1 each, fast accumulation, BF16 out */
#define H4J_BENCH_FP8_BLOCK 1      /* 1x128 scales of A, 128x128 scales of B, BF16 out */
#define H4J_BENCH_BF16 2           /* BF16 in and out */

typedef struct h4j_bench_matmul h4j_bench_matmul;
/* A [m, k] and B [n, k] row-major and packed; D [m, n] BF16. Scales as in h4j_gemm_args, used by H4J_BENCH_FP8_BLOCK only; b_scales must have room for
 * rows of ceil(ceil(k/128)/4)*4 scales, as cuBLASLt reads them. The first algorithm that the heuristic offers is taken, with 32 MiB of workspace. */
H4J_BENCH_API int32_t h4j_bench_matmul_open(h4j_bench_session* session, int32_t kind, int64_t m, int64_t n, int64_t k, uint64_t a, uint64_t a_scales,
                                            uint64_t b, uint64_t b_scales, uint64_t d, h4j_bench_matmul** matmul, char* why);
H4J_BENCH_API int32_t h4j_bench_matmul_run(h4j_bench_matmul* matmul, uint64_t stream, char* why);
H4J_BENCH_API void h4j_bench_matmul_close(h4j_bench_matmul* matmul);
/* cuBLASLt's version as it tells it (130000 for 13.0.0), 0 where it does not open. */
H4J_BENCH_API int64_t h4j_bench_matmul_version(void);

/* ---- What the card does, by NVML ---------------------------------------------------------------------------------------------------------- */

typedef struct h4j_bench_sample {
  int32_t samples;           /* taken since the start; the figures below need one */
  int32_t sm_clock_mhz;      /* median */
  int32_t sm_clock_min_mhz;  /* smallest */
  int32_t memory_clock_mhz;  /* median */
  int32_t watts;             /* median */
  int32_t watts_max;         /* largest */
  int32_t celsius;           /* largest */
  int32_t other_processes;   /* processes with a context on the card beside this one, most at a time; -1: not told */
  uint64_t throttle_reasons; /* all that were seen, NVML's bits */
  int32_t watts_limit;       /* the card's power limit; 0: not told */
  int32_t reserved;
} h4j_bench_sample;

/* Samples in a thread of its own, every 5 ms, until stopped. */
H4J_BENCH_API int32_t h4j_bench_monitor_start(h4j_bench_session* session, char* why);
H4J_BENCH_API int32_t h4j_bench_monitor_stop(h4j_bench_session* session, h4j_bench_sample* sample, char* why);
/* The driver's release, "580.159.04". */
H4J_BENCH_API int32_t h4j_bench_driver_release(h4j_bench_session* session, char* text, char* why);

/* ---- The host's side, from C --------------------------------------------------------------------------------------------------------------- */

#define H4J_BENCH_DOWNCALL 0 /* h4j_abi_version */
#define H4J_BENCH_PLAN 1     /* h4j_gemm_plan, h4j_plan_close */
#define H4J_BENCH_BIND 2     /* h4j_gemm_bind, h4j_launch_close */
#define H4J_BENCH_REBIND 3   /* h4j_gemm_rebind */
#define H4J_BENCH_LAUNCH 4   /* h4j_launch_run */
#define H4J_BENCH_EAGER 5    /* h4j_gemm */
#define H4J_BENCH_NO_ROWS 6  /* h4j_launch_run with 0 rows: the whole way but the driver's launch */

typedef struct h4j_bench_host h4j_bench_host;
/* Opens libhopper4j at `path` (the one already loaded) and prepares one small product on a device of its own handle. */
H4J_BENCH_API int32_t h4j_bench_host_open(const char* path, int32_t ordinal, int64_t m, int64_t n, int64_t k, h4j_bench_host** host, char* why);
/* The same call `count` times in a loop. */
H4J_BENCH_API int32_t h4j_bench_host_run(h4j_bench_host* host, int32_t what, int64_t count, char* why);
H4J_BENCH_API int32_t h4j_bench_host_synchronize(h4j_bench_host* host, char* why);
H4J_BENCH_API void h4j_bench_host_close(h4j_bench_host* host);

#ifdef __cplusplus
}
#endif

#endif /* HOPPER4J_BENCH_H */
