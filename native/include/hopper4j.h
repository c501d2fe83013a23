/*
 * Hopper4J: the whole C ABI of the library, one plain C header that needs no CUDA header.
 *
 * Rules that hold for every function
 * - Status. Each function that can fail returns h4j_status and takes `h4j_error* error`, which the caller owns and which may be null. On failure the
 *   error names operation, argument, what was got and what is allowed; on success it is left as it was. Nothing is kept per thread.
 * - Structs. `struct_size` comes first and is set by the caller to the size it was compiled with, so a newer library accepts an older caller. Fields
 *   a caller does not know are taken as 0.
 * - Handles are opaque, made by one function and destroyed by one function; null is an error where a handle is expected, and destroying null is fine.
 *   A handle must not be destroyed while another thread uses it.
 * - Contexts. A function that touches a device makes the context of its stream (or device) current and puts the caller's back before it returns.
 * - Addresses of device memory are uint64_t. Sizes and strides of tensors are counted in elements, of raw memory in bytes.
 * - No function prints, exits, throws or keeps a pointer to caller memory after it returns, except where it says so.
 * - The library loads without a driver and without a GPU; functions that need one then fail with H4J_NO_DRIVER, planning on a described device works.
 */
#ifndef HOPPER4J_H
#define HOPPER4J_H

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define H4J_API __attribute__((visibility("default")))
#else
#define H4J_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Changes when a function or struct changes in a way an existing caller would notice. */
#define H4J_ABI_VERSION 1

typedef int32_t h4j_status;
#define H4J_OK 0
#define H4J_INVALID_ARGUMENT 1     /* the caller's mistake: error->argument names it */
#define H4J_INVALID_STATE 2        /* a correct call at a wrong time, such as ending a capture that never began */
#define H4J_UNSUPPORTED 3          /* a valid request that this device or library cannot serve: error->argument names the unmet need */
#define H4J_OUT_OF_DEVICE_MEMORY 4 /* error->requested_bytes, error->free_bytes */
#define H4J_DEVICE_ERROR 5         /* the driver reported error->cuda_code; error->sticky says whether the context is lost */
#define H4J_NO_DRIVER 6            /* no driver, one older than the library needs, or no device */
#define H4J_NOT_READY 7            /* an answer, not a failure: the work has not finished yet */
#define H4J_INTERNAL 8             /* out of host memory, or a defect of the library */
#define H4J_PEER_TIMEOUT 9         /* a rank of an expert group did not answer before the deadline: error->argument "rank", error->got its number */

/* Element types. The codes are part of the ABI. */
typedef int32_t h4j_dtype;
#define H4J_F32 1
#define H4J_F16 2
#define H4J_BF16 3
#define H4J_F8_E4M3 4 /* fn form: largest 448, no infinity, NaN 0x7F and 0xFF */
#define H4J_F8_E5M2 5
#define H4J_F8_E8M0 6
#define H4J_I32 7
#define H4J_I64 8
#define H4J_U8 9

/* How a quantisation scale is formed from a block's largest magnitude; see h4j_quantize_spec. */
#define H4J_SCALE_F32 0
#define H4J_SCALE_POWER_OF_TWO 1 /* F32 values that are powers of two, so each is also a UE8M0 value */

/* How a token of 576 values, a latent of 512 and a rope part of 64, lies in a paged cache of MLA. A value of an FP8 latent is its E4M3 times its scale. */
#define H4J_MLA_CACHE_BF16 0       /* 1152 bytes: 576 BF16, the latent first */
#define H4J_MLA_CACHE_FP8_BLOCKS 1 /* 656 bytes: 0..511 latent as E4M3, 512..527 four F32 scales, of 128 values each, 528..655 rope part as 64 BF16 */
#define H4J_MLA_CACHE_FP8_TOKEN 2  /* 656 bytes: 0..511 latent as E4M3, 512..515 its F32 scale, 516..527 zero, 528..655 rope part as 64 BF16 */

typedef struct h4j_error {
  uint32_t struct_size;
  h4j_status status;
  int32_t cuda_code;       /* CUresult, 0 where no driver call failed */
  int32_t sticky;          /* 1: the context is lost, the process must restart to use this device again */
  int64_t requested_bytes; /* H4J_OUT_OF_DEVICE_MEMORY: what was asked for */
  int64_t free_bytes;      /* H4J_OUT_OF_DEVICE_MEMORY: what the card had free, -1 where unknown */
  char operation[32];      /* "gemm" */
  char argument[48];       /* "b_scales_ld" */
  char got[160];
  char allowed[160];
  char message[480]; /* the whole sentence: "gemm: k: got 120, need a multiple of 16" */
} h4j_error;

/* ---- Library ------------------------------------------------------------------------------------------------------------------------------ */

/* The H4J_ABI_VERSION that the library was built with. Callable before anything else. */
H4J_API int32_t h4j_abi_version(void);
/* "0.1.0", static storage. */
H4J_API const char* h4j_version(void);
/* sizeof of a struct of this header by its name ("h4j_error"), 0 for an unknown name: lets a binding check its layouts. */
H4J_API int64_t h4j_struct_size(const char* struct_name);
/* The CUDA version that the driver supports, 1000 * major + 10 * minor; 0 where there is no driver. */
H4J_API h4j_status h4j_driver_version(int32_t* version, h4j_error* error);

/* ---- Devices ------------------------------------------------------------------------------------------------------------------------------ */

/* What planning needs to know of a device. A described device (ordinal -1) allows planning for a card that is not there. */
typedef struct h4j_device_info {
  uint32_t struct_size;
  int32_t ordinal;       /* CUDA ordinal, -1: described */
  int32_t compute_major; /* 9 for Hopper */
  int32_t compute_minor;
  int32_t sm_count;
  int32_t shared_memory_per_block; /* bytes, the opt-in limit: 232448 on Hopper */
  int64_t l2_bytes;
  int64_t memory_bytes;
  int32_t sm_clock_khz; /* peak; 0 where unknown */
  float nvlink_gbs;     /* GB/s a direction over all links, nominal or as a group has measured it; 0 where unknown or none */
  uint8_t uuid[16];     /* zeros for a described device */
  char name[64];
} h4j_device_info;

/* Devices that the driver shows; 0 without a driver (the reason is then in `error`, and the status is H4J_OK). */
H4J_API h4j_status h4j_device_count(int32_t* count, h4j_error* error);
H4J_API h4j_status h4j_device_properties(int32_t ordinal, h4j_device_info* info, h4j_error* error);
/* A described device by name: "H100-SXM", "H800-SXM", "H200-SXM" (132 SMs), "H100-PCIe" (114 SMs), "H20" (78 SMs). */
H4J_API h4j_status h4j_device_describe(const char* name, h4j_device_info* info, h4j_error* error);

typedef struct h4j_device h4j_device;
/* Opens a device: retains its primary context and makes a stream-ordered memory pool of its own. Destroy streams, graphs and memory before it. */
H4J_API h4j_status h4j_device_open(int32_t ordinal, h4j_device** device, h4j_error* error);
H4J_API h4j_status h4j_device_close(h4j_device* device, h4j_error* error);
/* Free and total bytes of the card at this moment, memory cached by the pool counted as used. */
H4J_API h4j_status h4j_device_memory(h4j_device* device, int64_t* free_bytes, int64_t* total_bytes, h4j_error* error);
/* Gives memory that the pool caches beyond `keep_bytes` back to the card. */
H4J_API h4j_status h4j_device_trim(h4j_device* device, int64_t keep_bytes, h4j_error* error);

/* ---- Streams, events, graphs -------------------------------------------------------------------------------------------------------------- */

typedef struct h4j_stream h4j_stream;
/* A non-blocking stream of the device's primary context. */
H4J_API h4j_status h4j_stream_create(h4j_device* device, h4j_stream** stream, h4j_error* error);
/* Borrows a CUstream, also one of a context that is not the primary one; it is never destroyed here and must outlive the handle.
 * 0 is the legacy default stream of the primary context. Fails where the stream belongs to another device. */
H4J_API h4j_status h4j_stream_wrap(h4j_device* device, uint64_t cu_stream, h4j_stream** stream, h4j_error* error);
/* Waits for an own stream's work, then destroys it; a borrowed one is left alone. */
H4J_API h4j_status h4j_stream_close(h4j_stream* stream, h4j_error* error);
/* The CUstream, for other libraries. */
H4J_API h4j_status h4j_stream_handle(h4j_stream* stream, uint64_t* cu_stream, h4j_error* error);
/* Waits for the stream's work. Operations whose arguments in device memory (lengths, page numbers, ends of groups, ids) hold bad values stay inside their
 * tensors and say so here: H4J_INVALID_ARGUMENT with the operation and the element, "gemm_grouped: group_ends[3]: got 700, need 512..640", once, from the first
 * call of the device that waits or finds work done (this one, h4j_stream_query and their kin for events), whichever stream the operation ran on. */
H4J_API h4j_status h4j_stream_synchronize(h4j_stream* stream, h4j_error* error);
/* H4J_OK: all work done; H4J_NOT_READY: not yet. Bad values in device memory: see h4j_stream_synchronize. */
H4J_API h4j_status h4j_stream_query(h4j_stream* stream, h4j_error* error);

typedef struct h4j_event h4j_event;
/* An event of the stream's context; timed events can be compared by h4j_event_elapsed. */
H4J_API h4j_status h4j_event_create(h4j_stream* stream, int32_t timed, h4j_event** event, h4j_error* error);
H4J_API h4j_status h4j_event_close(h4j_event* event, h4j_error* error);
H4J_API h4j_status h4j_event_record(h4j_event* event, h4j_stream* stream, h4j_error* error);
/* Makes later work of the stream wait for the event. */
H4J_API h4j_status h4j_stream_wait(h4j_stream* stream, h4j_event* event, h4j_error* error);
/* Bad values in device memory: see h4j_stream_synchronize. */
H4J_API h4j_status h4j_event_synchronize(h4j_event* event, h4j_error* error);
/* H4J_OK: reached; H4J_NOT_READY: not yet. Bad values in device memory: see h4j_stream_synchronize. */
H4J_API h4j_status h4j_event_query(h4j_event* event, h4j_error* error);
/* Microseconds between two timed events that were reached. */
H4J_API h4j_status h4j_event_elapsed(h4j_event* start, h4j_event* end, double* microseconds, h4j_error* error);

typedef struct h4j_graph h4j_graph;
/* Work given to the stream from now on is recorded, not run. Other threads are not affected. */
H4J_API h4j_status h4j_capture_begin(h4j_stream* stream, h4j_error* error);
/* Ends the capture and makes an executable graph. On failure the capture is ended all the same. `graph` null: the capture is thrown away. */
H4J_API h4j_status h4j_capture_end(h4j_stream* stream, h4j_graph** graph, h4j_error* error);
/* May be called from several threads at once: they launch one after another. */
H4J_API h4j_status h4j_graph_launch(h4j_graph* graph, h4j_stream* stream, h4j_error* error);
H4J_API h4j_status h4j_graph_close(h4j_graph* graph, h4j_error* error);

/* ---- Memory ------------------------------------------------------------------------------------------------------------------------------- */

/* Device memory from the device's pool in stream order, 256-byte aligned. 0 bytes give address 0. */
H4J_API h4j_status h4j_memory_allocate(h4j_stream* stream, int64_t bytes, uint64_t* address, h4j_error* error);
/* Freed when the stream's earlier work is done. Address 0 is fine. */
H4J_API h4j_status h4j_memory_free(h4j_stream* stream, uint64_t address, h4j_error* error);
/* Page-locked host memory, reachable from every context, 4096-byte aligned. */
H4J_API h4j_status h4j_host_allocate(h4j_device* device, int64_t bytes, void** address, h4j_error* error);
H4J_API h4j_status h4j_host_free(h4j_device* device, void* address, h4j_error* error);
/* Copies between host and device in either direction (unified addressing tells which). Asynchronous where host memory is page-locked; otherwise
 * the driver stages it. Host memory must stay valid until the stream reaches the end of the copy. */
H4J_API h4j_status h4j_copy(h4j_stream* stream, uint64_t destination, uint64_t source, int64_t bytes, h4j_error* error);
/* `rows` rows of `row_bytes`, with a pitch in bytes on either side. */
H4J_API h4j_status h4j_copy_2d(h4j_stream* stream, uint64_t destination, int64_t destination_pitch, uint64_t source, int64_t source_pitch,
                               int64_t row_bytes, int64_t rows, h4j_error* error);
/* Sets device memory to one byte value. */
H4J_API h4j_status h4j_fill(h4j_stream* stream, uint64_t address, int32_t byte_value, int64_t bytes, h4j_error* error);

/* ---- Operations: plan, bind, launch ------------------------------------------------------------------------------------------------------- */

/* A plan has checked a spec against a device, chosen the kernel instance and knows the workspace. Immutable, shareable between threads. */
typedef struct h4j_plan h4j_plan;
/* A launch is a plan with addresses. h4j_launch_run may be called from several threads on several streams at once; rebinding may not run beside it. */
typedef struct h4j_launch h4j_launch;

typedef struct h4j_plan_info {
  uint32_t struct_size;
  int32_t grid;            /* CTAs of a full launch */
  int32_t block;           /* threads a CTA */
  int32_t shared_memory;   /* bytes a CTA */
  int64_t workspace_bytes; /* device memory that bind asks for, 256-byte aligned; 0: none */
  int64_t schedule_bytes;  /* mla_decode: device memory of the schedule, 256-byte aligned; 0 for other operations */
  char kernel[96];         /* instance name, stable: "gemm_dense_256x128x4" */
  char explanation[512];   /* why this instance, in words and figures */
  int64_t handle_bytes;    /* moe_dispatch, moe_combine: device memory of the handle, 256-byte aligned; 0 for other operations */
  int64_t rows;            /* moe_dispatch: rows of `out` that are enough in every case */
} h4j_plan_info;

H4J_API h4j_status h4j_plan_describe(const h4j_plan* plan, h4j_plan_info* info, h4j_error* error);
H4J_API h4j_status h4j_plan_close(h4j_plan* plan, h4j_error* error);

/* Runs a bound launch on a stream of the device that it was bound on: no allocation, no synchronisation, safe under capture. `rows` is how many rows
 * (M) are in use this time, 0..max_rows of the spec; -1 means all. A null error is fine: call again with one for the reason. */
H4J_API h4j_status h4j_launch_run(const h4j_launch* launch, h4j_stream* stream, int64_t rows, h4j_error* error);
/* The launch must outlive neither graphs that captured it (they hold copies) nor running work. */
H4J_API h4j_status h4j_launch_close(h4j_launch* launch, h4j_error* error);

/* -- quantize: E4M3 values and F32 scales from F32, F16 or BF16 --
 * The DeepSeek-V3.2-Exp variant (inference/kernel.py of that release): per block
 *   amax = max(max |x|, 1e-4), NaN left out;  s = amax * (1/448) in F32, or 2^ceil(log2(amax * (1/448))), exact by exponent bits;
 *   q = E4M3(x / s), IEEE F32 division, round to nearest even, saturating to +-448; NaN gives 0x7F.
 * Blocks are 1 x 128 (activations) or 128 x 128 (weights); ragged edge blocks use only their own elements. */
typedef struct h4j_quantize_spec {
  uint32_t struct_size;
  h4j_dtype in_dtype; /* H4J_F32, H4J_F16, H4J_BF16 */
  int32_t block_rows; /* 1 or 128 */
  int32_t block_cols; /* 128 */
  int32_t scale_kind; /* H4J_SCALE_F32, H4J_SCALE_POWER_OF_TWO */
  int32_t sm_budget;  /* at most so many SMs, 0: all */
  int64_t max_rows;   /* >= 0 */
  int64_t cols;       /* a multiple of 8, >= 8 */
} h4j_quantize_spec;

typedef struct h4j_quantize_args {
  uint32_t struct_size;
  uint32_t reserved;
  uint64_t in;       /* [rows, cols] row-major, 16-byte aligned */
  int64_t in_ld;     /* elements between rows, a multiple of 8, >= cols */
  uint64_t out;      /* [rows, cols] E4M3, 16-byte aligned */
  int64_t out_ld;    /* a multiple of 16, >= cols */
  uint64_t scales;   /* F32, 16-byte aligned. 1x128: element (row, block) at block * scales_ld + row; 128x128: at block_row * scales_ld + block_col */
  int64_t scales_ld; /* 1x128: >= rows, a multiple of 4; 128x128: >= ceil(cols/128) */
} h4j_quantize_args;

H4J_API h4j_status h4j_quantize_plan(const h4j_device_info* device, const h4j_quantize_spec* spec, h4j_plan** plan, h4j_error* error);
H4J_API h4j_status h4j_quantize_bind(const h4j_plan* plan, h4j_device* device, const h4j_quantize_args* args, h4j_launch** launch, h4j_error* error);
/* New addresses for an existing launch of the same kind; allocates nothing. */
H4J_API h4j_status h4j_quantize_rebind(h4j_launch* launch, const h4j_quantize_args* args, h4j_error* error);
/* Eager form: plan, bind and launch in one call, with max_rows rows. */
H4J_API h4j_status h4j_quantize(h4j_stream* stream, const h4j_quantize_spec* spec, const h4j_quantize_args* args, h4j_error* error);

/* -- dequantize: out = float(q) * s in F32, rounded to nearest even to the output type; the inverse layout of quantize -- */
typedef struct h4j_dequantize_spec {
  uint32_t struct_size;
  h4j_dtype out_dtype; /* H4J_F32, H4J_F16, H4J_BF16 */
  int32_t block_rows;  /* 1 or 128 */
  int32_t block_cols;  /* 128 */
  int32_t sm_budget;
  uint32_t reserved;
  int64_t max_rows;
  int64_t cols; /* a multiple of 8, >= 8 */
} h4j_dequantize_spec;

typedef struct h4j_dequantize_args {
  uint32_t struct_size;
  uint32_t reserved;
  uint64_t in;     /* [rows, cols] E4M3, 16-byte aligned */
  int64_t in_ld;   /* a multiple of 16, >= cols */
  uint64_t scales; /* as in h4j_quantize_args */
  int64_t scales_ld;
  uint64_t out;   /* [rows, cols], 16-byte aligned */
  int64_t out_ld; /* a multiple of 8, >= cols */
} h4j_dequantize_args;

H4J_API h4j_status h4j_dequantize_plan(const h4j_device_info* device, const h4j_dequantize_spec* spec, h4j_plan** plan, h4j_error* error);
H4J_API h4j_status h4j_dequantize_bind(const h4j_plan* plan, h4j_device* device, const h4j_dequantize_args* args, h4j_launch** launch,
                                       h4j_error* error);
H4J_API h4j_status h4j_dequantize_rebind(h4j_launch* launch, const h4j_dequantize_args* args, h4j_error* error);
H4J_API h4j_status h4j_dequantize(h4j_stream* stream, const h4j_dequantize_spec* spec, const h4j_dequantize_args* args, h4j_error* error);

/* -- gemm: D = A B^T (+ C), FP8 with block scales (DeepSeek-V3 technical report, arXiv 2412.19437, section 3.3.2) --
 *   D[m,n] = sum over blocks kb of 128 along K of (sum_{k in kb} A[m,k] B[n,k]) * (sa[m,kb] * sb[n/128,kb])  (+ C[m,n])
 * Products of a block are summed by the tensor core, partial sums are promoted to F32 registers and scaled there; D is rounded to nearest even.
 * Any max_m >= 0 (0 rows: nothing is launched); K need not be a multiple of 128: the last block is shorter.
 * E4M3 output: the F32 sums are quantised by 1x128 blocks as `quantize` says, without being rounded to another type before; D and its scales are then
 * laid out as A and a_scales of a GEMM behind this one. */
typedef struct h4j_gemm_spec {
  uint32_t struct_size;
  h4j_dtype out_dtype; /* H4J_BF16, H4J_F32 or H4J_F8_E4M3: type of D and C */
  int32_t accumulate;  /* 1: C is added; 0 with H4J_F8_E4M3 */
  int32_t sm_budget;   /* at most so many SMs, 0: all */
  int64_t max_m;       /* >= 0 */
  int64_t n;           /* a multiple of 8, >= 8; with H4J_F8_E4M3 a multiple of 16 */
  int64_t k;           /* a multiple of 16, >= 16 */
  /* 1: the bits of a row of D depend on nothing but that row of A (and C), B and the scales: not on M, on the row's place or on other rows. The same
   * for every max_m, sm_budget and device. */
  int32_t batch_invariant;
  /* 1: nothing that runs ahead of this launch in its stream and may not have ended yet writes B or its scales, as with weights. The launch may then start
   * before the kernel ahead ends and load B meanwhile (programmatic dependent launch); for A, C and D it waits. */
  int32_t constant_b;
  int32_t out_scale_kind; /* H4J_SCALE_F32 or H4J_SCALE_POWER_OF_TWO, of H4J_F8_E4M3 output; else 0 */
  uint32_t reserved;
} h4j_gemm_spec;

typedef struct h4j_gemm_args {
  uint32_t struct_size;
  uint32_t reserved;
  uint64_t a;          /* [M, K] E4M3 row-major, 16-byte aligned */
  int64_t a_ld;        /* elements between rows, a multiple of 16, >= K */
  uint64_t a_scales;   /* F32 [M, ceil(K/128)], element (m, kb) at kb * a_scales_ld + m; 16-byte aligned */
  int64_t a_scales_ld; /* >= M, a multiple of 4 */
  uint64_t b;          /* [N, K] E4M3 row-major, 16-byte aligned */
  int64_t b_ld;        /* a multiple of 16, >= K */
  uint64_t b_scales;   /* F32 [ceil(N/128), ceil(K/128)] row-major; 4-byte aligned */
  int64_t b_scales_ld; /* >= ceil(K/128) */
  uint64_t c;          /* [M, N] of out_dtype, 16-byte aligned; may be d; 0 unless accumulate */
  int64_t c_ld;        /* a multiple of 16 bytes, >= N */
  uint64_t d;          /* [M, N] of out_dtype, 16-byte aligned; overlaps nothing but c at the same address and stride */
  int64_t d_ld;        /* a multiple of 16 bytes, >= N */
  uint64_t workspace;  /* workspace_bytes of the plan, 256-byte aligned; 0 where that is 0. Not shared by launches that may overlap */
  int64_t workspace_bytes;
  uint64_t d_scales;   /* of E4M3 output: F32 [M, ceil(N/128)], element (m, nb) at nb * d_scales_ld + m; 16-byte aligned; else 0 */
  int64_t d_scales_ld; /* >= M, a multiple of 4 */
} h4j_gemm_args;

H4J_API h4j_status h4j_gemm_plan(const h4j_device_info* device, const h4j_gemm_spec* spec, h4j_plan** plan, h4j_error* error);
H4J_API h4j_status h4j_gemm_bind(const h4j_plan* plan, h4j_device* device, const h4j_gemm_args* args, h4j_launch** launch, h4j_error* error);
H4J_API h4j_status h4j_gemm_rebind(h4j_launch* launch, const h4j_gemm_args* args, h4j_error* error);
H4J_API h4j_status h4j_gemm(h4j_stream* stream, const h4j_gemm_spec* spec, const h4j_gemm_args* args, h4j_error* error);

/* -- mla_decode: attention of DeepSeek-V3's decode in the absorbed form (arXiv 2405.04434, section 2.1) over a paged cache --
 *   score[t,h,j] = softmax_scale * sum_d q[t,h,d] token_j[d]  over 576 dims;  out[t,h] = sum_j softmax(score)[j] token_j[0..511]
 * for the keys j that query token t of a request sees: all `length` of them, or with `causal` those up to its own place, the last query token being the
 * last of the length; with a window only the last `window` of those. Requests without keys give out 0 and log-sum-exp +infinity.
 * The schedule divides the work of a decode step between SMs. h4j_mla_schedule_bind makes a launch that writes it from the lengths on the device; every
 * layer's decode launch of the step reads it. Both may be captured: nothing is read back by the host. */
typedef struct h4j_mla_decode_spec {
  uint32_t struct_size;
  int32_t heads;        /* 1..128 query heads */
  int32_t s_q;          /* query tokens of a request, at most; 1..1024 */
  int32_t page_size;    /* tokens, a power of two, 1..1024 */
  int32_t causal;       /* 1: bottom-right causal among the query tokens */
  int32_t window;       /* 0: none; else a query token sees that many keys, itself included where causal */
  int32_t sm_budget;    /* at most so many SMs, 0: all */
  float softmax_scale;  /* > 0 */
  int64_t max_batch;    /* requests, 0..65535; max_batch * s_q * heads below 2^31 */
  int64_t max_length;   /* tokens of a request; lengths beyond are cut to it */
  int64_t pages;        /* of the cache; tokens on page numbers outside it read as zeros */
  int32_t cache_format; /* H4J_MLA_CACHE_* */
  uint32_t reserved;
} h4j_mla_decode_spec;

typedef struct h4j_mla_schedule_args {
  uint32_t struct_size;
  uint32_t reserved;
  uint64_t lengths;  /* I32 [batch], cached tokens of each request, those of the query tokens included */
  uint64_t q_tokens; /* I32 [batch], query tokens in use of each request, 0..s_q; 0: s_q for all */
  uint64_t schedule; /* written; schedule_bytes of the plan, 256-byte aligned */
} h4j_mla_schedule_args;

typedef struct h4j_mla_decode_args {
  uint32_t struct_size;
  uint32_t reserved;
  uint64_t q;             /* BF16 [batch, s_q, heads, 576], rows q_ld elements apart; 16-byte aligned */
  int64_t q_ld;           /* a multiple of 8, >= 576 */
  uint64_t cache;         /* [pages, page_size] tokens of the cache's format; 16-byte aligned */
  int64_t cache_ld;       /* between tokens. BF16: elements, a multiple of 8, >= 576; FP8: bytes, a multiple of 16, >= 656 */
  int64_t cache_page_ld;  /* between pages, in the same units and multiples, >= page_size * cache_ld */
  uint64_t block_table;   /* I32 [batch, block_table_ld], page numbers; entries behind a request's length are not read */
  int64_t block_table_ld; /* >= ceil(max_length / page_size) */
  uint64_t lengths;       /* as the schedule was made from */
  uint64_t q_tokens;      /* as the schedule was made from; 0 as there */
  uint64_t sink;          /* F32 [heads]: a logit that joins the softmax's denominator, not the log-sum-exp; 0: none */
  uint64_t schedule;
  uint64_t out;       /* BF16 [batch, s_q, heads, 512], packed; rows of unused query tokens are not written; 16-byte aligned */
  uint64_t lse;       /* F32 [batch, heads, s_q], packed, natural logarithm */
  uint64_t workspace; /* workspace_bytes of the plan, 256-byte aligned. Not shared by launches that may overlap */
  int64_t workspace_bytes;
} h4j_mla_decode_args;

H4J_API h4j_status h4j_mla_decode_plan(const h4j_device_info* device, const h4j_mla_decode_spec* spec, h4j_plan** plan, h4j_error* error);
/* rows of the launch: the batch in use; the decode launches of the step take the same. */
H4J_API h4j_status h4j_mla_schedule_bind(const h4j_plan* plan, h4j_device* device, const h4j_mla_schedule_args* args, h4j_launch** launch,
                                         h4j_error* error);
H4J_API h4j_status h4j_mla_schedule_rebind(h4j_launch* launch, const h4j_mla_schedule_args* args, h4j_error* error);
H4J_API h4j_status h4j_mla_decode_bind(const h4j_plan* plan, h4j_device* device, const h4j_mla_decode_args* args, h4j_launch** launch,
                                       h4j_error* error);
H4J_API h4j_status h4j_mla_decode_rebind(h4j_launch* launch, const h4j_mla_decode_args* args, h4j_error* error);

/* -- mla_merge: two results of attention over disjoint sets of keys into that over both, by their log-sum-exp --
 *   lse = ln(exp(lse_a) + exp(lse_b));  out = exp(lse_a - lse) out_a + exp(lse_b - lse) out_b, in F32, rounded once
 * A part whose log-sum-exp is +infinity has no keys and counts for nothing, whatever its out holds; two such give 0 and +infinity. A sink belongs to
 * the whole and must not be in the parts. The result may be written over either part. */
typedef struct h4j_mla_merge_spec {
  uint32_t struct_size;
  h4j_dtype out_dtype; /* H4J_BF16 or H4J_F32 */
  int32_t heads;       /* 1..128 */
  int32_t s_q;         /* query tokens of a request, 1..1024 */
  int32_t sm_budget;   /* at most so many SMs, 0: all */
  uint32_t reserved;
  int64_t max_batch; /* requests, 0..65535; max_batch * s_q * heads below 2^31 */
} h4j_mla_merge_spec;

typedef struct h4j_mla_merge_args {
  uint32_t struct_size;
  uint32_t reserved;
  uint64_t out_a; /* [batch, s_q, heads, 512] of out_dtype, packed; 16-byte aligned, as out_b and out */
  uint64_t lse_a; /* F32 [batch, heads, s_q], packed, natural logarithm; as lse_b and lse */
  uint64_t out_b;
  uint64_t lse_b;
  uint64_t out; /* written */
  uint64_t lse; /* written */
} h4j_mla_merge_args;

H4J_API h4j_status h4j_mla_merge_plan(const h4j_device_info* device, const h4j_mla_merge_spec* spec, h4j_plan** plan, h4j_error* error);
/* rows of the launch: the batch in use. */
H4J_API h4j_status h4j_mla_merge_bind(const h4j_plan* plan, h4j_device* device, const h4j_mla_merge_args* args, h4j_launch** launch,
                                      h4j_error* error);
H4J_API h4j_status h4j_mla_merge_rebind(h4j_launch* launch, const h4j_mla_merge_args* args, h4j_error* error);
H4J_API h4j_status h4j_mla_merge(h4j_stream* stream, const h4j_mla_merge_spec* spec, const h4j_mla_merge_args* args, h4j_error* error);
/* -- gemm_grouped: a weight matrix for each group of consecutive rows (the experts of a mixture-of-experts layer), FP8 with block scales --
 *   D[m,n] = sum over blocks kb of 128 along K of (sum_{k in kb} A[m,k] B[g,n,k]) * (sa[m,kb] * sb[g,n/128,kb])  for the rows m of group g,
 * ends[g-1] <= m < ends[g], with 0 before the first. The ends are read from device memory when the launch runs. A group may have any count of rows, none
 * included; nothing is padded. Rows behind the last end are not written. Ends that decrease or exceed the rows in use are clamped and reported. */
typedef struct h4j_gemm_grouped_spec {
  uint32_t struct_size;
  h4j_dtype ends_dtype; /* H4J_I32 or H4J_I64 */
  int32_t groups;       /* 1..512 */
  int32_t sm_budget;    /* at most so many SMs, 0: all */
  int64_t max_m;        /* rows of all groups together, >= 0 */
  int64_t n;            /* a multiple of 8, >= 8 */
  int64_t k;            /* a multiple of 16, >= 16 */
} h4j_gemm_grouped_spec;

typedef struct h4j_gemm_grouped_args {
  uint32_t struct_size;
  uint32_t reserved;
  uint64_t a;                /* [M, K] E4M3 row-major, 16-byte aligned */
  int64_t a_ld;              /* elements between rows, a multiple of 16, >= K */
  uint64_t a_scales;         /* F32 [M, ceil(K/128)], element (m, kb) at kb * a_scales_ld + m; 16-byte aligned */
  int64_t a_scales_ld;       /* >= M, a multiple of 4 */
  uint64_t b;                /* [groups, N, K] E4M3, 16-byte aligned */
  int64_t b_ld;              /* elements between rows, a multiple of 16, >= K */
  int64_t b_group_ld;        /* elements between groups, a multiple of 16, >= N * b_ld */
  uint64_t b_scales;         /* F32 [groups, ceil(N/128), ceil(K/128)]; 4-byte aligned */
  int64_t b_scales_ld;       /* >= ceil(K/128) */
  int64_t b_scales_group_ld; /* >= ceil(N/128) * b_scales_ld */
  uint64_t group_ends;       /* [groups] of ends_dtype */
  uint64_t d;                /* [M, N] BF16, 16-byte aligned; overlaps no other tensor */
  int64_t d_ld;              /* a multiple of 8, >= N */
  uint64_t workspace;        /* workspace_bytes of the plan, 256-byte aligned; 0 where that is 0. Not shared by launches that may overlap */
  int64_t workspace_bytes;
} h4j_gemm_grouped_args;

/* rows of the launch: what the last end may be at most. */
H4J_API h4j_status h4j_gemm_grouped_plan(const h4j_device_info* device, const h4j_gemm_grouped_spec* spec, h4j_plan** plan, h4j_error* error);
H4J_API h4j_status h4j_gemm_grouped_bind(const h4j_plan* plan, h4j_device* device, const h4j_gemm_grouped_args* args, h4j_launch** launch,
                                         h4j_error* error);
H4J_API h4j_status h4j_gemm_grouped_rebind(h4j_launch* launch, const h4j_gemm_grouped_args* args, h4j_error* error);
H4J_API h4j_status h4j_gemm_grouped(h4j_stream* stream, const h4j_gemm_grouped_spec* spec, const h4j_gemm_grouped_args* args, h4j_error* error);

/* -- gemm_masked: the same product where each group has room for max_rows rows of its own and uses the first counts[g] of them --
 * The counts are read from device memory when the launch runs. Rows not in use are not written. Counts below 0 or above max_rows are clamped and
 * reported. */
typedef struct h4j_gemm_masked_spec {
  uint32_t struct_size;
  h4j_dtype counts_dtype; /* H4J_I32 or H4J_I64 */
  int32_t groups;         /* 1..512 */
  int32_t sm_budget;      /* at most so many SMs, 0: all */
  int64_t max_rows;       /* of a group, >= 0 */
  int64_t expected_rows;  /* how many a group uses on average, which tiles are chosen for; 0: max_rows */
  int64_t n;              /* a multiple of 8, >= 8 */
  int64_t k;              /* a multiple of 16, >= 16 */
} h4j_gemm_masked_spec;

typedef struct h4j_gemm_masked_args {
  uint32_t struct_size;
  uint32_t reserved;
  uint64_t a;                /* [groups, max_rows, K] E4M3, 16-byte aligned */
  int64_t a_ld;              /* elements between rows, a multiple of 16, >= K */
  int64_t a_group_ld;        /* elements between groups, a multiple of 16, >= max_rows * a_ld */
  uint64_t a_scales;         /* F32, element (g, m, kb) at g * a_scales_group_ld + kb * a_scales_ld + m; 16-byte aligned */
  int64_t a_scales_ld;       /* >= max_rows, a multiple of 4 */
  int64_t a_scales_group_ld; /* a multiple of 4, >= ceil(K/128) * a_scales_ld */
  uint64_t b;                /* as in h4j_gemm_grouped_args, down to b_scales_group_ld */
  int64_t b_ld;
  int64_t b_group_ld;
  uint64_t b_scales;
  int64_t b_scales_ld;
  int64_t b_scales_group_ld;
  uint64_t counts;    /* [groups] of counts_dtype */
  uint64_t d;         /* [groups, max_rows, N] BF16, 16-byte aligned; overlaps no other tensor */
  int64_t d_ld;       /* a multiple of 8, >= N */
  int64_t d_group_ld; /* a multiple of 8, >= max_rows * d_ld */
  uint64_t workspace; /* workspace_bytes of the plan, 256-byte aligned; 0 where that is 0. Not shared by launches that may overlap */
  int64_t workspace_bytes;
} h4j_gemm_masked_args;

/* rows of the launch: what a count may be at most. */
H4J_API h4j_status h4j_gemm_masked_plan(const h4j_device_info* device, const h4j_gemm_masked_spec* spec, h4j_plan** plan, h4j_error* error);
H4J_API h4j_status h4j_gemm_masked_bind(const h4j_plan* plan, h4j_device* device, const h4j_gemm_masked_args* args, h4j_launch** launch,
                                        h4j_error* error);
H4J_API h4j_status h4j_gemm_masked_rebind(h4j_launch* launch, const h4j_gemm_masked_args* args, h4j_error* error);
H4J_API h4j_status h4j_gemm_masked(h4j_stream* stream, const h4j_gemm_masked_spec* spec, const h4j_gemm_masked_args* args, h4j_error* error);

/* -- gemm_k_grouped: a product for each group of consecutive K (the weight gradients of a mixture-of-experts layer), FP8 with block scales --
 *   D[g,m,n] = sum over blocks kb of 128 along K in group g of (sum_{k in kb} A[m,k] B[n,k]) * (sa[m,kb] * sb[n,kb])  (+ C[g,m,n])
 * Group g holds ends[g-1] <= k < ends[g], with 0 before the first; ends are multiples of 128, or K itself. They are read from device memory when the launch
 * runs. A group without K leaves C, or 0. Ends that decrease, exceed the K in use or lie inside a block are clamped down and reported. */
typedef struct h4j_gemm_k_grouped_spec {
  uint32_t struct_size;
  h4j_dtype ends_dtype; /* H4J_I32 or H4J_I64 */
  int32_t groups;       /* 1..512 */
  int32_t accumulate;   /* 1: C is added */
  int32_t sm_budget;    /* at most so many SMs, 0: all */
  int32_t reserved;
  int64_t m;     /* >= 1 */
  int64_t n;     /* a multiple of 8, >= 8 */
  int64_t max_k; /* of all groups together, a multiple of 16, >= 0 */
} h4j_gemm_k_grouped_spec;

typedef struct h4j_gemm_k_grouped_args {
  uint32_t struct_size;
  uint32_t reserved;
  uint64_t a;          /* [M, K] E4M3 row-major, 16-byte aligned */
  int64_t a_ld;        /* elements between rows, a multiple of 16, >= K */
  uint64_t a_scales;   /* F32 [M, ceil(K/128)], element (m, kb) at kb * a_scales_ld + m; 16-byte aligned */
  int64_t a_scales_ld; /* >= M, a multiple of 4 */
  uint64_t b;          /* [N, K] E4M3 row-major, 16-byte aligned */
  int64_t b_ld;        /* a multiple of 16, >= K */
  uint64_t b_scales;   /* F32 [N, ceil(K/128)], element (n, kb) at kb * b_scales_ld + n; 16-byte aligned */
  int64_t b_scales_ld; /* >= N, a multiple of 4 */
  uint64_t group_ends; /* [groups] of ends_dtype */
  uint64_t c;          /* F32 [groups, M, N], 16-byte aligned; may be d; 0 unless accumulate */
  int64_t c_ld;        /* a multiple of 4, >= N */
  int64_t c_group_ld;  /* a multiple of 4, >= M * c_ld */
  uint64_t d;          /* F32 [groups, M, N], 16-byte aligned; overlaps nothing but c at the same address and strides */
  int64_t d_ld;        /* a multiple of 4, >= N */
  int64_t d_group_ld;  /* a multiple of 4, >= M * d_ld */
  uint64_t workspace;  /* workspace_bytes of the plan, 256-byte aligned; 0 where that is 0. Not shared by launches that may overlap */
  int64_t workspace_bytes;
} h4j_gemm_k_grouped_args;

/* rows of the launch: what the last end may be at most, a multiple of 16. */
H4J_API h4j_status h4j_gemm_k_grouped_plan(const h4j_device_info* device, const h4j_gemm_k_grouped_spec* spec, h4j_plan** plan, h4j_error* error);
H4J_API h4j_status h4j_gemm_k_grouped_bind(const h4j_plan* plan, h4j_device* device, const h4j_gemm_k_grouped_args* args, h4j_launch** launch,
                                           h4j_error* error);
H4J_API h4j_status h4j_gemm_k_grouped_rebind(h4j_launch* launch, const h4j_gemm_k_grouped_args* args, h4j_error* error);
H4J_API h4j_status h4j_gemm_k_grouped(h4j_stream* stream, const h4j_gemm_k_grouped_spec* spec, const h4j_gemm_k_grouped_args* args, h4j_error* error);
/* -- gemm_bf16: D = A B^T (+ C) of BF16 matrices, one product or a batch of them --
 *   D[z,m,n] = sum_k A[z,m,k] B[z,n,k] (+ C[z,m,n])
 * Products and sums are F32, D is rounded to nearest even. Strides between rows and between products are free, so that the batch may be a middle
 * dimension: [b,h,r] x [h,d,r] -> [b,h,d], the absorbed projections of MLA, has batch h, row stride h * r and batch stride r. */
typedef struct h4j_gemm_bf16_spec {
  uint32_t struct_size;
  h4j_dtype out_dtype; /* H4J_BF16 or H4J_F32: type of D and C */
  int32_t accumulate;  /* 1: C is added */
  int32_t sm_budget;   /* at most so many SMs, 0: all */
  int64_t batch;       /* products, 0..65535 */
  int64_t max_m;       /* >= 0 */
  int64_t n;           /* a multiple of 8, >= 8 */
  int64_t k;           /* a multiple of 8, >= 8 */
} h4j_gemm_bf16_spec;

/* Strides in elements. The _batch_ld of a batch of one is not read. */
typedef struct h4j_gemm_bf16_args {
  uint32_t struct_size;
  uint32_t reserved;
  uint64_t a;         /* [batch, M, K], 16-byte aligned */
  int64_t a_ld;       /* between rows, a multiple of 8, >= K */
  int64_t a_batch_ld; /* between products, a multiple of 8, >= K */
  uint64_t b;         /* [batch, N, K], 16-byte aligned */
  int64_t b_ld;       /* a multiple of 8, >= K */
  int64_t b_batch_ld; /* a multiple of 8, >= K */
  uint64_t c;         /* [batch, M, N] of out_dtype, 16-byte aligned; may be d; 0 unless accumulate */
  int64_t c_ld;       /* a multiple of 16 bytes, >= N */
  int64_t c_batch_ld; /* a multiple of 16 bytes, >= N */
  uint64_t d;         /* [batch, M, N] of out_dtype, 16-byte aligned; overlaps nothing but c at the same address and strides */
  int64_t d_ld;       /* a multiple of 16 bytes, >= N */
  int64_t d_batch_ld; /* a multiple of 16 bytes, >= N */
  uint64_t workspace; /* workspace_bytes of the plan, 256-byte aligned; 0 where that is 0. Not shared by launches that may overlap */
  int64_t workspace_bytes;
} h4j_gemm_bf16_args;

H4J_API h4j_status h4j_gemm_bf16_plan(const h4j_device_info* device, const h4j_gemm_bf16_spec* spec, h4j_plan** plan, h4j_error* error);
H4J_API h4j_status h4j_gemm_bf16_bind(const h4j_plan* plan, h4j_device* device, const h4j_gemm_bf16_args* args, h4j_launch** launch,
                                      h4j_error* error);
H4J_API h4j_status h4j_gemm_bf16_rebind(h4j_launch* launch, const h4j_gemm_bf16_args* args, h4j_error* error);
H4J_API h4j_status h4j_gemm_bf16(h4j_stream* stream, const h4j_gemm_bf16_spec* spec, const h4j_gemm_bf16_args* args, h4j_error* error);

/* -- gemm_bf16_grouped: the same with a B of its own for each group of consecutive rows --
 *   D[m,n] = sum_k A[m,k] B[g,n,k] (+ C[m,n])  for the rows m of group g: group_ends[g-1] <= m < group_ends[g], from 0 for the first
 * Groups may have any number of rows, 0 included; rows behind the last end are not written. An end below the one before it, or beyond the rows in use,
 * is cut to that; the next synchronising call says so. */
typedef struct h4j_gemm_bf16_grouped_spec {
  uint32_t struct_size;
  h4j_dtype out_dtype; /* H4J_BF16 or H4J_F32: type of D and C */
  int32_t accumulate;  /* 1: C is added */
  int32_t sm_budget;   /* at most so many SMs, 0: all */
  int64_t groups;      /* 1..65535 */
  int64_t max_m;       /* rows of all groups together, >= 0 */
  int64_t n;           /* a multiple of 8, >= 8 */
  int64_t k;           /* a multiple of 8, >= 8 */
} h4j_gemm_bf16_grouped_spec;

typedef struct h4j_gemm_bf16_grouped_args {
  uint32_t struct_size;
  uint32_t reserved;
  uint64_t a;          /* [M, K], 16-byte aligned */
  int64_t a_ld;        /* elements between rows, a multiple of 8, >= K */
  uint64_t b;          /* [groups, N, K], 16-byte aligned */
  int64_t b_ld;        /* a multiple of 8, >= K */
  int64_t b_group_ld;  /* elements between groups, a multiple of 8, >= K */
  uint64_t group_ends; /* I32 [groups], ascending */
  uint64_t c;          /* [M, N] of out_dtype, 16-byte aligned; may be d; 0 unless accumulate */
  int64_t c_ld;        /* a multiple of 16 bytes, >= N */
  uint64_t d;          /* [M, N] of out_dtype, 16-byte aligned; overlaps nothing but c at the same address and stride */
  int64_t d_ld;        /* a multiple of 16 bytes, >= N */
  uint64_t workspace;  /* workspace_bytes of the plan, 256-byte aligned; 0 where that is 0. Not shared by launches that may overlap */
  int64_t workspace_bytes;
} h4j_gemm_bf16_grouped_args;

H4J_API h4j_status h4j_gemm_bf16_grouped_plan(const h4j_device_info* device, const h4j_gemm_bf16_grouped_spec* spec, h4j_plan** plan,
                                              h4j_error* error);
H4J_API h4j_status h4j_gemm_bf16_grouped_bind(const h4j_plan* plan, h4j_device* device, const h4j_gemm_bf16_grouped_args* args, h4j_launch** launch,
                                              h4j_error* error);
H4J_API h4j_status h4j_gemm_bf16_grouped_rebind(h4j_launch* launch, const h4j_gemm_bf16_grouped_args* args, h4j_error* error);
H4J_API h4j_status h4j_gemm_bf16_grouped(h4j_stream* stream, const h4j_gemm_bf16_grouped_spec* spec, const h4j_gemm_bf16_grouped_args* args,
                                         h4j_error* error);

/* -- swiglu_quantize: the pass between an expert's GEMMs: SwiGLU, an optional weight a row, E4M3 with 1x128 scales --
 *   v = g / (1 + exp(-g)) * u (* weight[row]), g = in[row, c], u = in[row, cols + c]; quantised as `quantize` does, but that v / s
 *   is v * (1/s).  v stays in F32: nothing is rounded to less between the BF16 input and the scale and E4M3 value. */
typedef struct h4j_swiglu_quantize_spec {
  uint32_t struct_size;
  int32_t scale_kind; /* H4J_SCALE_F32, H4J_SCALE_POWER_OF_TWO */
  int32_t weighted;   /* 1: each row has a weight */
  int32_t masked;     /* 1: how many rows of a group are in use, device memory says; rows of a launch are then what a count may be at most */
  int32_t sm_budget;  /* at most so many SMs, 0: all */
  int32_t groups;     /* 1..1024; 1 unless masked */
  int64_t max_rows;   /* of a group, >= 0; groups * max_rows below 2^31 */
  int64_t cols;       /* of the output, a multiple of 8, >= 8 */
} h4j_swiglu_quantize_spec;

typedef struct h4j_swiglu_quantize_args {
  uint32_t struct_size;
  uint32_t reserved;
  uint64_t in;             /* BF16 [groups, max_rows, 2 * cols], gate before up, 16-byte aligned */
  int64_t in_ld;           /* elements between rows, a multiple of 8, >= 2 * cols */
  int64_t in_group_ld;     /* elements between groups, a multiple of 8, >= max_rows * in_ld; not read for one group, as the others */
  uint64_t weights;        /* F32 [groups, max_rows], packed; 0 unless weighted */
  uint64_t row_counts;     /* I32 [groups], 0..max_rows; 0 unless masked */
  uint64_t out;            /* E4M3 [groups, max_rows, cols], 16-byte aligned; rows not in use are not written, nor are their scales */
  int64_t out_ld;          /* a multiple of 16, >= cols */
  int64_t out_group_ld;    /* a multiple of 16, >= max_rows * out_ld */
  uint64_t scales;         /* F32, element (group, row, block) at group * scales_group_ld + block * scales_ld + row; 16-byte aligned */
  int64_t scales_ld;       /* >= max_rows, a multiple of 4 */
  int64_t scales_group_ld; /* >= max_rows: max_rows where groups lie one behind the other in each column of scales */
} h4j_swiglu_quantize_args;

H4J_API h4j_status h4j_swiglu_quantize_plan(const h4j_device_info* device, const h4j_swiglu_quantize_spec* spec, h4j_plan** plan, h4j_error* error);
H4J_API h4j_status h4j_swiglu_quantize_bind(const h4j_plan* plan, h4j_device* device, const h4j_swiglu_quantize_args* args, h4j_launch** launch,
                                            h4j_error* error);
H4J_API h4j_status h4j_swiglu_quantize_rebind(h4j_launch* launch, const h4j_swiglu_quantize_args* args, h4j_error* error);
H4J_API h4j_status h4j_swiglu_quantize(h4j_stream* stream, const h4j_swiglu_quantize_spec* spec, const h4j_swiglu_quantize_args* args,
                                       h4j_error* error);

/* -- rmsnorm_quantize: RMSNorm (arXiv 1910.07467) and E4M3 with 1x128 scales --
 *   y[c] = x[c] / sqrt(mean(x^2) + eps) * weight[c] in F32, quantised as `quantize` does, but that y / s is y * (1/s);
 *   `normalized`, if wanted, is y rounded once to BF16.
 * With a residual, x is in + residual rounded to BF16, which is also written back to the residual. */
typedef struct h4j_rmsnorm_quantize_spec {
  uint32_t struct_size;
  h4j_dtype weight_dtype; /* H4J_BF16 or H4J_F32 */
  int32_t scale_kind;     /* H4J_SCALE_F32, H4J_SCALE_POWER_OF_TWO */
  int32_t residual;       /* 1: there is one */
  int32_t normalized;     /* 1: the normalised rows are written too */
  int32_t sm_budget;      /* at most so many SMs, 0: all */
  float eps;              /* > 0 */
  uint32_t reserved;
  int64_t max_rows; /* >= 0 */
  int64_t cols;     /* a multiple of 8, 8..32768 */
} h4j_rmsnorm_quantize_spec;

typedef struct h4j_rmsnorm_quantize_args {
  uint32_t struct_size;
  uint32_t reserved;
  uint64_t in;           /* BF16 [rows, cols], 16-byte aligned */
  int64_t in_ld;         /* a multiple of 8, >= cols */
  uint64_t residual;     /* BF16 [rows, cols], read and written, 16-byte aligned; 0 where the spec has none */
  int64_t residual_ld;   /* a multiple of 8, >= cols; not read without a residual */
  uint64_t weight;       /* [cols] of weight_dtype, 16-byte aligned */
  uint64_t out;          /* E4M3 [rows, cols], 16-byte aligned */
  int64_t out_ld;        /* a multiple of 16, >= cols */
  uint64_t scales;       /* F32, element (row, block) at block * scales_ld + row; 16-byte aligned */
  int64_t scales_ld;     /* >= rows, a multiple of 4 */
  uint64_t normalized;   /* BF16 [rows, cols], 16-byte aligned; 0 where the spec does not want it */
  int64_t normalized_ld; /* a multiple of 8, >= cols; not read without it */
} h4j_rmsnorm_quantize_args;

H4J_API h4j_status h4j_rmsnorm_quantize_plan(const h4j_device_info* device, const h4j_rmsnorm_quantize_spec* spec, h4j_plan** plan, h4j_error* error);
H4J_API h4j_status h4j_rmsnorm_quantize_bind(const h4j_plan* plan, h4j_device* device, const h4j_rmsnorm_quantize_args* args, h4j_launch** launch,
                                             h4j_error* error);
H4J_API h4j_status h4j_rmsnorm_quantize_rebind(h4j_launch* launch, const h4j_rmsnorm_quantize_args* args, h4j_error* error);
H4J_API h4j_status h4j_rmsnorm_quantize(h4j_stream* stream, const h4j_rmsnorm_quantize_spec* spec, const h4j_rmsnorm_quantize_args* args,
                                        h4j_error* error);

/* -- transpose_quantize: the operands of a weight gradient: out[c, r] is in[r, c] in E4M3, one scale for each column of `in` and 128 of its rows --
 * Scales and values are those that `quantize` with 1x128 blocks would give for the transposed matrix. */
typedef struct h4j_transpose_quantize_spec {
  uint32_t struct_size;
  int32_t scale_kind; /* H4J_SCALE_F32, H4J_SCALE_POWER_OF_TWO */
  int32_t sm_budget;  /* at most so many SMs, 0: all */
  uint32_t reserved;
  int64_t max_rows; /* >= 0 */
  int64_t cols;     /* a multiple of 8, >= 8 */
} h4j_transpose_quantize_spec;

typedef struct h4j_transpose_quantize_args {
  uint32_t struct_size;
  uint32_t reserved;
  uint64_t in;       /* BF16 [rows, cols], 16-byte aligned */
  int64_t in_ld;     /* a multiple of 8, >= cols */
  uint64_t out;      /* E4M3 [cols, rows], 16-byte aligned */
  int64_t out_ld;    /* a multiple of 16, >= rows */
  uint64_t scales;   /* F32 [cols, ceil(rows/128)], element (col, block) at block * scales_ld + col; 16-byte aligned */
  int64_t scales_ld; /* >= cols, a multiple of 4 */
} h4j_transpose_quantize_args;

H4J_API h4j_status h4j_transpose_quantize_plan(const h4j_device_info* device, const h4j_transpose_quantize_spec* spec, h4j_plan** plan,
                                               h4j_error* error);
H4J_API h4j_status h4j_transpose_quantize_bind(const h4j_plan* plan, h4j_device* device, const h4j_transpose_quantize_args* args, h4j_launch** launch,
                                               h4j_error* error);
H4J_API h4j_status h4j_transpose_quantize_rebind(h4j_launch* launch, const h4j_transpose_quantize_args* args, h4j_error* error);
H4J_API h4j_status h4j_transpose_quantize(h4j_stream* stream, const h4j_transpose_quantize_spec* spec, const h4j_transpose_quantize_args* args,
                                          h4j_error* error);

/* -- mla_cache_write: from the latent projection of a layer to tokens of the paged cache (DeepSeek-V3 technical report, section 2.1.1) --
 *   token[0..511]   = x[c] / sqrt(mean(x^2) + eps) * weight[c] over the 512 latent values, in F32
 *   token[512 + 2i] = x0 cos_i - x1 sin_i, token[513 + 2i] = x0 sin_i + x1 cos_i, with x0, x1 = x[512 + 2i], x[513 + 2i]: pairs stay interleaved
 * rounded once: to BF16, or the latent as `quantize` does from F32. Token t lies at its position in the pages of its request. A position of -1 marks
 * padding: nothing is written. */
typedef struct h4j_mla_cache_write_spec {
  uint32_t struct_size;
  int32_t format;           /* H4J_MLA_CACHE_* */
  int32_t scale_kind;       /* of FP8: H4J_SCALE_F32, H4J_SCALE_POWER_OF_TWO */
  h4j_dtype weight_dtype;   /* H4J_BF16 or H4J_F32 */
  h4j_dtype position_dtype; /* H4J_I32 or H4J_I64 */
  int32_t page_size;        /* tokens, a power of two, 1..1024 */
  int32_t request_tokens;   /* without `requests`, token t belongs to request t / request_tokens; >= 1 */
  int32_t sm_budget;        /* at most so many SMs, 0: all */
  float eps;                /* > 0 */
  uint32_t reserved;
  int64_t max_tokens; /* >= 0 */
  int64_t max_batch;  /* requests: rows of the block table */
  int64_t max_length; /* tokens of a request: positions are below it */
  int64_t pages;      /* of the cache */
} h4j_mla_cache_write_spec;

typedef struct h4j_mla_cache_write_args {
  uint32_t struct_size;
  uint32_t reserved;
  uint64_t in;            /* BF16 [tokens, 576], 16-byte aligned */
  int64_t in_ld;          /* a multiple of 8, >= 576 */
  uint64_t weight;        /* [512] of weight_dtype, 16-byte aligned */
  uint64_t rope;          /* F32 [max_length, 64], packed: cosines of the 32 pairs, then sines; 4-byte aligned */
  uint64_t positions;     /* [tokens] of position_dtype, 0..max_length - 1, or -1 */
  uint64_t requests;      /* I32 [tokens], 0..max_batch - 1, or 0: see request_tokens */
  uint64_t block_table;   /* I32 [max_batch, block_table_ld], page numbers, 0..pages - 1 */
  int64_t block_table_ld; /* >= ceil(max_length / page_size) */
  uint64_t cache;         /* [pages, page_size, token], 16-byte aligned */
  int64_t cache_ld;       /* between tokens: BF16: elements, a multiple of 8, >= 576; FP8: bytes, a multiple of 16, >= 656 */
  int64_t cache_page_ld;  /* between pages, of the same unit and multiple, >= page_size * cache_ld */
} h4j_mla_cache_write_args;

H4J_API h4j_status h4j_mla_cache_write_plan(const h4j_device_info* device, const h4j_mla_cache_write_spec* spec, h4j_plan** plan, h4j_error* error);
H4J_API h4j_status h4j_mla_cache_write_bind(const h4j_plan* plan, h4j_device* device, const h4j_mla_cache_write_args* args, h4j_launch** launch,
                                            h4j_error* error);
H4J_API h4j_status h4j_mla_cache_write_rebind(h4j_launch* launch, const h4j_mla_cache_write_args* args, h4j_error* error);
H4J_API h4j_status h4j_mla_cache_write(h4j_stream* stream, const h4j_mla_cache_write_spec* spec, const h4j_mla_cache_write_args* args,
                                       h4j_error* error);

/* ---- Expert groups ------------------------------------------------------------------------------------------------------------------------ */

/* A rank of an expert-parallel group inside one host. All ranks give the same spec but for `rank`. Rank r holds experts r * per .. of
 * per = ceil(experts / ranks). The group owns a window of device memory that its peers write and read: peer access inside a process, CUDA IPC between
 * processes. Opening: h4j_group_open and h4j_group_export in each rank, an exchange of the blobs by the caller, h4j_group_connect in each rank.
 * Every wait of a kernel on a peer ends at the deadline: the kernel then names what it waited for and exits, the group is poisoned, and its launches and
 * h4j_group_check answer H4J_PEER_TIMEOUT from then on. A rank that was waited for in vain because it waits for another one itself says so within two
 * milliseconds, and that other one is named. Such a group is closed and, without the lost rank, opened anew; the context stays usable.
 * A channel has its own buffers and order: calls of one channel are made in the same order by every rank, each on one stream at a time; calls of several
 * channels may overlap. */
typedef struct h4j_group_spec {
  uint32_t struct_size;
  int32_t rank;           /* 0..ranks - 1 */
  int32_t ranks;          /* 1..64 */
  int32_t experts;        /* 1..1024 over all ranks */
  int32_t top_k;          /* 1..32 */
  int32_t hidden;         /* a multiple of 8, 8..16384 */
  int32_t max_tokens;     /* of a rank in a throughput call; 0: no throughput calls */
  int32_t latency_tokens; /* of a rank in a latency call, 0..512; 0: no latency calls */
  int32_t channels;       /* 1..4 */
  int32_t
      sm_budget; /* CTAs of a kernel of the group, each of which may fill an SM; 0: at most 24, by the link, or 128 for latency calls and the expert layout */
  h4j_dtype row_dtype; /* of dispatched rows: H4J_F8_E4M3 with F32 scales of 1x128 blocks, or H4J_BF16 */
  int32_t scale_kind;  /* of rows that dispatch casts: H4J_SCALE_F32, H4J_SCALE_POWER_OF_TWO */
  int64_t deadline_us; /* of one wait; 0: 10 s */
} h4j_group_spec;

#define H4J_GROUP_BLOB_BYTES 512

/* Memory of the window that callers read and write. Row counts are those of the worst case, ranks * max_tokens. */
typedef struct h4j_group_buffers_info {
  uint32_t struct_size;
  float link_gbs;  /* GB/s of this rank's stores to its slowest peer on another device, measured when the group connected; 0: no such peer */
  uint64_t rows;   /* [ranks * max_tokens, hidden] of row_dtype: dispatched rows, by source rank, then by token */
  int64_t rows_ld; /* elements */
  uint64_t scales; /* F32, element (row, block) at block * scales_ld + row; 0 for BF16 rows */
  int64_t scales_ld;
  uint64_t experts;    /* I32 [rows, top_k]: the rank's own number of each expert, -1 for experts of other ranks */
  uint64_t weights;    /* F32 [rows, top_k] */
  uint64_t partials;   /* BF16 [ranks * max_tokens, hidden]: rows for combine, in the order of the dispatched rows */
  int64_t partials_ld; /* elements */
} h4j_group_buffers_info;

typedef struct h4j_group h4j_group;
/* Allocates the window and loads and runs every kernel once, so that nothing is loaded while a rank waits. */
H4J_API h4j_status h4j_group_open(h4j_device* device, const h4j_group_spec* spec, h4j_group** group, h4j_error* error);
/* H4J_GROUP_BLOB_BYTES that say to peers where the window is. No secret, but only for peers of the same host. */
H4J_API h4j_status h4j_group_export(const h4j_group* group, uint8_t* blob, int64_t bytes, h4j_error* error);
/* The blobs of all ranks in order. Names a spec field in which a peer differs, and refuses ranks that cannot share a device. Call once. */
H4J_API h4j_status h4j_group_connect(h4j_group* group, const uint8_t* blobs, int64_t bytes, h4j_error* error);
H4J_API h4j_status h4j_group_buffers(const h4j_group* group, int32_t channel, h4j_group_buffers_info* buffers, h4j_error* error);
/* Bit r: rank r takes part in launches from now on. All living ranks give the same mask. */
H4J_API h4j_status h4j_group_set_active(h4j_group* group, uint64_t ranks, h4j_error* error);
/* H4J_OK, or H4J_PEER_TIMEOUT with the rank that is missing and the channel and phase that a kernel waited for in vain. */
H4J_API h4j_status h4j_group_check(const h4j_group* group, h4j_error* error);
/* Waits for the device and frees the window. Peers must not touch it any more: their launches have ended, in time or by the deadline. */
H4J_API h4j_status h4j_group_close(h4j_group* group, h4j_error* error);

#define H4J_MODE_THROUGHPUT 0
#define H4J_MODE_LATENCY 1
#define H4J_LAYOUT_RANK 0   /* one row for each token that came, by source rank, then by token */
#define H4J_LAYOUT_EXPERT 1 /* one row for each token and local expert, by expert, then by source rank, then by token */
#define H4J_WHOLE 0
#define H4J_START 1  /* sends and does not wait for what peers send */
#define H4J_FINISH 2 /* waits for it; from the same plan arguments, on the same channel, before its next start */

/* -- moe_dispatch: rows to the ranks that hold their experts --
 * A plan is for every rank of the group: `rank` of its group spec does not matter. Where the spec leaves the SMs to the library, the rank layout takes as many as
 * `nvlink_gbs` of the planned device wants, so all ranks plan with the same figure: nominal, or the least `link_gbs` of all.
 * A token crosses to a rank once, whatever number of its experts are there. An expert number -1 selects nothing; a number given twice counts twice, in
 * latency calls, where an expert has a slot for each token, once.
 * Throughput, rank layout: rows land in the group's buffers. Throughput, expert layout: rows are then placed in `out`, each expert's rows beginning at a
 * multiple of `alignment`, rows between one expert's end and the next one's beginning left as they are.
 * Latency: `out` is [local experts, ranks * latency_tokens, hidden], for a masked grouped GEMM. */
typedef struct h4j_moe_dispatch_spec {
  uint32_t struct_size;
  int32_t mode;
  int32_t layout;     /* latency: H4J_LAYOUT_EXPERT */
  int32_t half;       /* H4J_WHOLE, H4J_START, H4J_FINISH */
  h4j_dtype in_dtype; /* H4J_BF16 (cast inside where row_dtype is FP8), or row_dtype */
  int32_t alignment;  /* rows, 1..256, a power of two; throughput, expert layout */
  int32_t channel;
  int32_t reuse; /* 1: routing as in the handle; experts and weights are not sent again. Throughput, rank layout */
} h4j_moe_dispatch_spec;

typedef struct h4j_moe_dispatch_args {
  uint32_t struct_size;
  uint32_t reserved;
  uint64_t x;          /* [tokens, hidden] of in_dtype, 16-byte aligned */
  int64_t x_ld;        /* a multiple of 16 bytes, >= hidden */
  uint64_t x_scales;   /* F32, element (row, block) at block * x_scales_ld + row; 0 unless in_dtype is FP8 */
  int64_t x_scales_ld; /* >= tokens */
  uint64_t experts;    /* I32 [tokens, top_k], 16-byte aligned */
  uint64_t weights;    /* F32 [tokens, top_k], 16-byte aligned */
  uint64_t handle;     /* handle_bytes of the plan, 256-byte aligned: written, or read with `reuse`; combine reads it */
  uint64_t received;   /* I32 [ranks + 1]: rows from each rank, then all of them; 0: not wanted. Latency: tokens of each rank */
  uint64_t out;        /* expert layout: rows of row_dtype, 16-byte aligned */
  int64_t out_ld;      /* a multiple of 16 bytes, >= hidden */
  int64_t out_rows;    /* throughput: rows there are at `out`; h4j_plan_info.rows is always enough */
  uint64_t out_scales; /* F32; throughput: element (row, block) at block * out_scales_ld + row; latency: (expert, slot, block) at
                           (expert * blocks + block) * out_scales_ld + slot */
  int64_t out_scales_ld;
  uint64_t expert_rows; /* I32 [local experts, 2]: first row and end of each expert's rows; latency I32 [local experts]: rows in use */
} h4j_moe_dispatch_args;

H4J_API h4j_status h4j_moe_dispatch_plan(const h4j_device_info* device, const h4j_group_spec* group, const h4j_moe_dispatch_spec* spec,
                                         h4j_plan** plan, h4j_error* error);
H4J_API h4j_status h4j_moe_dispatch_bind(const h4j_plan* plan, h4j_group* group, const h4j_moe_dispatch_args* args, h4j_launch** launch,
                                         h4j_error* error);
H4J_API h4j_status h4j_moe_dispatch_rebind(h4j_launch* launch, const h4j_moe_dispatch_args* args, h4j_error* error);

/* -- moe_combine: the way back --
 * out[t] = sum over ranks, in rank order, of the rank's partial row of token t (+ residual[t]), summed in F32, rounded to BF16.
 * Rank layout: partial rows stand in the group's `partials`. Expert layout: a rank's partial row is the sum over k of weights[t][k] * x[row of (t, k)] in
 * F32, rounded to BF16; a rank's own part is not rounded and is the first in the sum. */
typedef struct h4j_moe_combine_spec {
  uint32_t struct_size;
  int32_t mode;
  int32_t layout;
  int32_t half;
  int32_t residual; /* 1: residual rows are added */
  int32_t channel;
} h4j_moe_combine_spec;

typedef struct h4j_moe_combine_args {
  uint32_t struct_size;
  uint32_t reserved;
  uint64_t handle;   /* as dispatch left it */
  uint64_t x;        /* expert layout: BF16 rows in the layout of dispatch's `out`, 16-byte aligned; read by both halves */
  int64_t x_ld;      /* a multiple of 8, >= hidden */
  uint64_t residual; /* BF16 [tokens, hidden], 16-byte aligned; 0 without */
  int64_t residual_ld;
  uint64_t out; /* BF16 [tokens, hidden], 16-byte aligned */
  int64_t out_ld;
} h4j_moe_combine_args;

H4J_API h4j_status h4j_moe_combine_plan(const h4j_device_info* device, const h4j_group_spec* group, const h4j_moe_combine_spec* spec, h4j_plan** plan,
                                        h4j_error* error);
H4J_API h4j_status h4j_moe_combine_bind(const h4j_plan* plan, h4j_group* group, const h4j_moe_combine_args* args, h4j_launch** launch,
                                        h4j_error* error);
H4J_API h4j_status h4j_moe_combine_rebind(h4j_launch* launch, const h4j_moe_combine_args* args, h4j_error* error);

/* -- moe_gate: which experts a token goes to and how much each counts (DeepSeek-V3 technical report, arXiv 2412.19437, section 2.1.2) --
 *   s = sigmoid(logit), or the softmax of the token's logits;  choice = s + bias
 * Experts lie in `groups` groups of neighbours. Of the groups, the kept_groups with the largest sum of their two best choices stay; of their experts, the
 * top_k best choices are taken, best first. Equal sums or choices: the lower number first. NaN counts as larger than any number.
 *   weight = s / (sum of the s that were taken + 1e-20) * scale, or s * scale where `normalize` is 0
 * Disabled experts are never taken and make no group better. Where too few are left, ids end in -1 and their weights are 0. All arithmetic is F32. */
#define H4J_SCORES_SIGMOID 0
#define H4J_SCORES_SOFTMAX 1

typedef struct h4j_moe_gate_spec {
  uint32_t struct_size;
  h4j_dtype logits_dtype; /* H4J_F32 or H4J_BF16 */
  int32_t scores;         /* H4J_SCORES_SIGMOID, H4J_SCORES_SOFTMAX */
  int32_t experts;        /* 1..1024 */
  int32_t groups;         /* 1..32, a divisor of experts */
  int32_t kept_groups;    /* 1..groups */
  int32_t top_k;          /* 1..32, at most kept_groups * experts / groups */
  int32_t normalize;      /* 1: the weights of a token sum to scale */
  int32_t add_counts;     /* 1: counts are added to what stands there; 0: they begin at 0 */
  int32_t sm_budget;      /* at most so many SMs, 0: all */
  float scale;            /* of the weights, finite and > 0 */
  uint32_t reserved;
  int64_t max_tokens; /* >= 0; max_tokens * top_k below 2^31 */
} h4j_moe_gate_spec;

typedef struct h4j_moe_gate_args {
  uint32_t struct_size;
  uint32_t reserved;
  uint64_t logits;   /* [tokens, experts] of logits_dtype */
  int64_t logits_ld; /* elements between rows, >= experts */
  uint64_t bias;     /* F32 [experts]; 0: none */
  uint64_t disabled; /* U8 [experts], not 0: never taken; 0: all may be taken */
  uint64_t ids;      /* I32 [tokens, top_k], written */
  uint64_t weights;  /* F32 [tokens, top_k], written */
  uint64_t counts;   /* I32 [experts], how often each expert was taken, written; 0: not wanted */
} h4j_moe_gate_args;

H4J_API h4j_status h4j_moe_gate_plan(const h4j_device_info* device, const h4j_moe_gate_spec* spec, h4j_plan** plan, h4j_error* error);
H4J_API h4j_status h4j_moe_gate_bind(const h4j_plan* plan, h4j_device* device, const h4j_moe_gate_args* args, h4j_launch** launch, h4j_error* error);
H4J_API h4j_status h4j_moe_gate_rebind(h4j_launch* launch, const h4j_moe_gate_args* args, h4j_error* error);
H4J_API h4j_status h4j_moe_gate(h4j_stream* stream, const h4j_moe_gate_spec* spec, const h4j_moe_gate_args* args, h4j_error* error);

/* -- moe_bias_update: balancing without an auxiliary loss (arXiv 2408.15664; arXiv 2412.19437, section 2.1.2) --
 *   bias[e] -= step where counts[e] is above the mean of all counts, += step where it is below, exactly; rows of a launch: 1 or 0 */
typedef struct h4j_moe_bias_update_spec {
  uint32_t struct_size;
  int32_t experts;      /* 1..1024 */
  float step;           /* finite and >= 0 */
  int32_t clear_counts; /* 1: counts are 0 afterwards */
  int32_t sm_budget;    /* one SM is used */
  uint32_t reserved;
} h4j_moe_bias_update_spec;

typedef struct h4j_moe_bias_update_args {
  uint32_t struct_size;
  uint32_t reserved;
  uint64_t counts; /* I32 [experts] */
  uint64_t bias;   /* F32 [experts], read and written */
} h4j_moe_bias_update_args;

H4J_API h4j_status h4j_moe_bias_update_plan(const h4j_device_info* device, const h4j_moe_bias_update_spec* spec, h4j_plan** plan, h4j_error* error);
H4J_API h4j_status h4j_moe_bias_update_bind(const h4j_plan* plan, h4j_device* device, const h4j_moe_bias_update_args* args, h4j_launch** launch,
                                            h4j_error* error);
H4J_API h4j_status h4j_moe_bias_update_rebind(h4j_launch* launch, const h4j_moe_bias_update_args* args, h4j_error* error);
H4J_API h4j_status h4j_moe_bias_update(h4j_stream* stream, const h4j_moe_bias_update_spec* spec, const h4j_moe_bias_update_args* args,
                                       h4j_error* error);

/* -- moe_permute: a copy of each token's row for each expert that it goes to, by expert, then by token, then by place among the token's ids --
 * The rows of expert e end before group_ends[e] and begin at group_ends[e - 1] (0 for the first); each expert has a multiple of `alignment` of them, those
 * behind its tokens' are zeros and have scales of 0. Rows behind the last end are not written. An id of -1 goes nowhere; any other that is no expert goes
 * nowhere and is reported (see h4j_stream_synchronize). The rows of `out` number tokens * top_k + min(experts, tokens * top_k) * (alignment - 1), which is
 * enough for any ids. Where out_dtype is E4M3 and in_dtype BF16, rows are quantised on the way, as `quantize` with 1x128 blocks does. */
typedef struct h4j_moe_permute_spec {
  uint32_t struct_size;
  h4j_dtype in_dtype;  /* H4J_BF16 or H4J_F8_E4M3 */
  h4j_dtype out_dtype; /* in_dtype, or H4J_F8_E4M3 */
  int32_t scale_kind;  /* of rows quantised here: H4J_SCALE_F32, H4J_SCALE_POWER_OF_TWO */
  int32_t experts;     /* 1..1024 */
  int32_t top_k;       /* ids of a token, 1..32 */
  int32_t alignment;   /* rows, a power of two, 1..256 */
  int32_t sm_budget;   /* at most so many SMs, 0: all */
  int64_t max_tokens;  /* >= 0; rows of `out` below 2^31 */
  int64_t hidden;      /* elements of a row, a multiple of 16 bytes in both types */
} h4j_moe_permute_spec;

typedef struct h4j_moe_permute_args {
  uint32_t struct_size;
  uint32_t reserved;
  uint64_t ids;          /* I32 [tokens, top_k], 16-byte aligned */
  uint64_t in;           /* [tokens, hidden] of in_dtype, 16-byte aligned */
  int64_t in_ld;         /* elements between rows, a multiple of 16 bytes, >= hidden */
  uint64_t in_scales;    /* F32, element (row, block) at block * in_scales_ld + row; 0 unless in_dtype is E4M3 */
  int64_t in_scales_ld;  /* >= max_tokens, a multiple of 4; not read without scales */
  uint64_t out;          /* [rows, hidden] of out_dtype, 16-byte aligned */
  int64_t out_ld;        /* a multiple of 16 bytes, >= hidden */
  uint64_t out_scales;   /* F32, element (row, block) at block * out_scales_ld + row; 0 unless out_dtype is E4M3 */
  int64_t out_scales_ld; /* >= rows, a multiple of 4; not read without scales */
  uint64_t group_ends;   /* I32 [experts], written */
  uint64_t places;       /* I32 [tokens, top_k]: the row of `out` for each id, -1: none; written, moe_unpermute reads it */
  uint64_t sources;      /* I32 [rows]: which of the tokens * top_k ids each row is of, -1 in padding; written up to the last end; 0: not wanted */
} h4j_moe_permute_args;

H4J_API h4j_status h4j_moe_permute_plan(const h4j_device_info* device, const h4j_moe_permute_spec* spec, h4j_plan** plan, h4j_error* error);
H4J_API h4j_status h4j_moe_permute_bind(const h4j_plan* plan, h4j_device* device, const h4j_moe_permute_args* args, h4j_launch** launch,
                                        h4j_error* error);
H4J_API h4j_status h4j_moe_permute_rebind(h4j_launch* launch, const h4j_moe_permute_args* args, h4j_error* error);
H4J_API h4j_status h4j_moe_permute(h4j_stream* stream, const h4j_moe_permute_spec* spec, const h4j_moe_permute_args* args, h4j_error* error);

/* -- moe_unpermute: the way back: out[t] = sum over j of weights[t,j] * x[places[t,j]] (+ residual[t]), in that order in F32, rounded once to BF16 --
 * A place of -1 adds nothing; any other that is no row of x adds nothing and is reported, one of them where there are several. */
typedef struct h4j_moe_unpermute_spec {
  uint32_t struct_size;
  int32_t top_k;     /* places of a token, 1..32 */
  int32_t weighted;  /* 0: each weight is 1 */
  int32_t residual;  /* 1: there is one */
  int32_t sm_budget; /* at most so many SMs, 0: all */
  uint32_t reserved;
  int64_t max_tokens; /* >= 0 */
  int64_t rows;       /* of x, >= 0 */
  int64_t hidden;     /* a multiple of 8, >= 8 */
} h4j_moe_unpermute_spec;

typedef struct h4j_moe_unpermute_args {
  uint32_t struct_size;
  uint32_t reserved;
  uint64_t x;          /* BF16 [rows, hidden], 16-byte aligned */
  int64_t x_ld;        /* a multiple of 8, >= hidden */
  uint64_t places;     /* I32 [tokens, top_k], as moe_permute writes it */
  uint64_t weights;    /* F32 [tokens, top_k]; 0 unless weighted */
  uint64_t residual;   /* BF16 [tokens, hidden], 16-byte aligned, may be out; 0 without */
  int64_t residual_ld; /* a multiple of 8, >= hidden; not read without a residual */
  uint64_t out;        /* BF16 [tokens, hidden], 16-byte aligned */
  int64_t out_ld;      /* a multiple of 8, >= hidden */
} h4j_moe_unpermute_args;

H4J_API h4j_status h4j_moe_unpermute_plan(const h4j_device_info* device, const h4j_moe_unpermute_spec* spec, h4j_plan** plan, h4j_error* error);
H4J_API h4j_status h4j_moe_unpermute_bind(const h4j_plan* plan, h4j_device* device, const h4j_moe_unpermute_args* args, h4j_launch** launch,
                                          h4j_error* error);
H4J_API h4j_status h4j_moe_unpermute_rebind(h4j_launch* launch, const h4j_moe_unpermute_args* args, h4j_error* error);
H4J_API h4j_status h4j_moe_unpermute(h4j_stream* stream, const h4j_moe_unpermute_spec* spec, const h4j_moe_unpermute_args* args, h4j_error* error);

#ifdef __cplusplus
}
#endif

#endif /* HOPPER4J_H */
