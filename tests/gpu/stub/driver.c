/* A CUDA driver without a device: memory is the host's, launches are checked, counted and noted.

   With it the real host code of numba-cuda runs: compiling, linking, packing of arguments, grids,
   streams, events and graphs. A function that is not here answers "not supported", so that a caller
   which needs it fails by name. What is handed out of memory holds 0xEE, so that results of memory
   nobody wrote stand out (with STUB_QUICK only its first bytes, so that the host's time is its own).
   Kernels are run by whoever offers to (stub_run, see tests/gpu/emulator), or not at all. */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

typedef uint64_t address; /* CUdeviceptr */
typedef void *handle;     /* CUcontext, CUstream, CUevent, CUlibrary, ... */

enum {
  OK = 0, INVALID = 1, OUT_OF_MEMORY = 2, NOT_BEGUN = 3, NO_CONTEXT = 201, WRONG_CODE = 209,
  NOT_FOUND = 500, NOT_SUPPORTED = 801, NOT_WHILE_NOTING = 900, OUTSIDE = 905
};
enum { DEVICE_MEMORY = 2, MOST_OF_X = 2147483647, MOST_OF_YZ = 65535, MOST_THREADS = 1024 };

/* --- memory that a device would move: time of it is not the host's ------------------------------ */

static double seconds;
static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return t.tv_sec + 1e-9 * t.tv_nsec;
}
static void move(void *to, const void *from, size_t n) {
  double start = now();
  memmove(to, from, n);
  seconds += now() - start;
}
static void set(void *to, int value, size_t n) {
  double start = now();
  memset(to, value, n);
  seconds += now() - start;
}

double stub_seconds(void) { return seconds; }

/* --- work of a stream: done at once, or noted in a graph and done when that is launched --------- */

typedef struct {
  unsigned grid[3], block[3], shared;
  handle stream;
} launch_config;
typedef struct work {
  enum { COPY, SET, RUN } kind;
  address to, from;
  size_t size;
  unsigned char value;
  handle function;
  launch_config config;
  uint64_t *words; /* of a kernel's arguments */
  struct work *next;
} work;
typedef int (*runner)(handle function, const unsigned *grid, const unsigned *block, const uint64_t *words);
enum { MOST_FUNCTIONS = 4096, MOST_WORDS = 512, LAUNCH_FAILED = 719 };
static struct {
  handle function;
  int words;
} known[MOST_FUNCTIONS];
static int n_known;
static runner run;
static handle noting;
static work *noted, **end_of_noted = &noted;

/* From now on kernels run: those whose arguments take as many words of 8 bytes as is said here. */
void stub_run(runner one) { run = one; }
void stub_knows(handle function, int words) {
  if (n_known == MOST_FUNCTIONS || words > MOST_WORDS) abort();
  known[n_known].function = function;
  known[n_known++].words = words;
}
static int words_of(handle function) {
  for (int i = 0; i < n_known; i++)
    if (known[i].function == function) return known[i].words;
  return -1;
}

static int do_now(const work *one) {
  if (one->kind == COPY) return move((void *)one->to, (void *)one->from, one->size), OK;
  if (one->kind == SET) return set((void *)one->to, one->value, one->size), OK;
  if (!run || !one->words) return OK;
  return run(one->function, one->config.grid, one->config.block, one->words) ? LAUNCH_FAILED : OK;
}
static int do_on(handle stream, work one) {
  if (!stream || stream != noting) return do_now(&one);
  if (one.words) {
    size_t size = sizeof *one.words * words_of(one.function);
    one.words = memcpy(malloc(size + 1), one.words, size);
  }
  *end_of_noted = memcpy(malloc(sizeof one), &one, sizeof one);
  return end_of_noted = &(*end_of_noted)->next, OK;
}

/* --- calls that tests count ------------------------------------------------------------------- */

static struct {
  const char *name;
  long calls;
} counts[] = {{"launch"}, {"record"}, {"wait"}, {"synchronize"}, {"allocate"}, {"free"},
            {"graph"}, {"copy"}, {"clear"}};

static char contexts[2];
static __thread handle current;
static int last_device;
int stub_device(void) { return last_device; } /* of the last call that was counted */

static void count(const char *name) {
  last_device = current ? (char *)current - contexts : -1;
  for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
    if (!strcmp(counts[i].name, name)) counts[i].calls++;
}

long stub_calls(const char *name) {
  for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
    if (!strcmp(counts[i].name, name)) return counts[i].calls;
  return -1;
}

/* --- memory: free blocks by powers of two ----------------------------------------------------- */

#define ARENA ((address)0x700000000000)
static const size_t capacity = (size_t)1 << 32;
static size_t used = 4096;
static address free_blocks[64];
typedef struct block {
  address at;
  int power;
  struct block *next;
} block;
static block *blocks;

static void open_arena(void) {
  static int opened;
  if (opened++) return;
  int kind = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE;
  void *at = mmap((void *)ARENA, capacity, PROT_READ | PROT_WRITE, kind, -1, 0);
  if (at == MAP_FAILED) abort();
}

static int mem_alloc(address *out, size_t bytes) {
  int power = 9; /* the driver's alignment and more */
  while (((size_t)1 << power) < bytes) power++;
  open_arena();
  count("allocate");
  if (free_blocks[power]) {
    *out = free_blocks[power];
    free_blocks[power] = *(address *)*out;
  } else {
    if (used + ((size_t)1 << power) > capacity) return OUT_OF_MEMORY;
    *out = ARENA + used;
    used += (size_t)1 << power;
  }
  block *made = malloc(sizeof *made);
  *made = (block){*out, power, blocks};
  blocks = made;
  size_t held = (size_t)1 << power;
  set((void *)*out, 0xEE, getenv("STUB_QUICK") && held > 4096 ? 4096 : held);
  return OK;
}

static int mem_free(address at) {
  count("free");
  for (block **link = &blocks; *link; link = &(*link)->next)
    if ((*link)->at == at) {
      block *gone = *link;
      *link = gone->next;
      *(address *)at = free_blocks[gone->power];
      free_blocks[gone->power] = at;
      free(gone);
      return OK;
    }
  return INVALID;
}

static int copy_up(address to, const void *from, size_t n) { return count("copy"), move((void *)to, from, n), OK; }
static int copy_up_async(address to, const void *from, size_t n, handle s) { return copy_up(to, from, n); }
static int copy_down(void *to, address from, size_t n) { return count("copy"), move(to, (void *)from, n), OK; }
static int copy_down_async(void *to, address from, size_t n, handle s) { return copy_down(to, from, n); }
static int copy_there(address to, address from, size_t n) { return count("copy"), move((void *)to, (void *)from, n), OK; }
static int copy_there_async(address to, address from, size_t n, handle s) {
  return count("copy"), do_on(s, (work){.kind = COPY, .to = to, .from = from, .size = n});
}
static int set_bytes_async(address at, unsigned char value, size_t n, handle s) {
  return count("clear"), do_on(s, (work){.kind = SET, .to = at, .value = value, .size = n});
}
static int is_lost(void);
static int mem_alloc_async(address *out, size_t bytes, handle stream) { return mem_alloc(out, bytes); }
static int mem_free_async(address at, handle stream) { return is_lost() ? NO_CONTEXT : mem_free(at); }
static int mem_free_here(address at) { return is_lost() ? NO_CONTEXT : mem_free(at); }
static int default_pool(handle *out, int d) { return *out = (handle)0x4321, OK; }
static int set_pool_attribute(handle pool, int which, void *value) { return OK; }
static int set_bytes(address at, unsigned char value, size_t n) { return set((void *)at, value, n), OK; }
static int mem_info(size_t *left, size_t *all) { return *left = *all = capacity, OK; }
static int pointer_attribute(void *out, int which, address at) {
  if (which == 3)
    *(address *)out = at;
  else
    *(int *)out = which == 2 ? DEVICE_MEMORY : 0;
  return OK;
}

/* --- two devices, a context each ----------------------------------------------------------------- */


static int has_begun;
static int is_lost(void) { return !current; } /* calls of a thread that works on no device */
static int init(unsigned flags) { return has_begun = 1, open_arena(), OK; }
static int version(int *out) { return *out = 13000, OK; }
static int get_device(int *out, int i) { return *out = i, OK; }
static int device_count(int *out) { return *out = 2, OK; }
static int device_name(char *out, int n, int d) { return snprintf(out, n, "stub"), OK; }
static int device_uuid(void *out, int d) { return memset(out, 7 + d, 16), OK; }
static int device_memory(size_t *out, int d) { return *out = capacity, OK; }
static int device_attribute(int *out, int which, int d) {
  switch (which) {
    case 1: *out = MOST_THREADS; break;
    case 8: *out = 49152; break; /* shared memory of a block */
    case 10: *out = 32; break;   /* threads of a warp */
    case 16: *out = 132; break;  /* multiprocessors */
    case 75: *out = 9; break;    /* compute capability 9.0 */
    case 76: *out = 0; break;
    case 100: *out = 0; break;   /* memory of the host is not read by its page tables */
    case 97: *out = 232448; break; /* shared memory of a block that asks for it */
    default: *out = 1;
  }
  return OK;
}
static int retain(handle *out, int d) { return *out = contexts + d, OK; }
static int release(int d) { return OK; }
static int context_state(int d, unsigned *flags, int *active) { return *flags = 0, *active = 1, OK; }
static int get_current(handle *out) { return *out = current, has_begun ? OK : NOT_BEGUN; }
static int set_current(handle c) { return current = c, OK; }
static int pop_current(handle *out) { return *out = current, current = 0, OK; }
static int context_device(int *out) { return *out = (char *)current - contexts, OK; }
static int context_id(handle c, uint64_t *out) { return *out = 1, OK; }
static int synchronize(void) {
  if (!current) return NO_CONTEXT;
  if (noting) return NOT_WHILE_NOTING; /* which spoils it, too */
  return count("synchronize"), OK;
}

/* --- streams, events, kernels ----------------------------------------------------------------- */

static handle fresh(void) {
  static uintptr_t last = 0x1000;
  return (handle)(last += 16);
}
static int make_stream(handle *out, unsigned flags) { return *out = fresh(), OK; }
static int make_event(handle *out, unsigned flags) { return *out = fresh(), current ? OK : NO_CONTEXT; }
static int drop(handle one) { return OK; }
static int query(handle one) { return OK; }
static int synchronize_one(handle one) {
  return one && one == noting ? INVALID : (count("synchronize"), OK);
}
static int record(handle event, handle stream) { return count("record"), event ? OK : INVALID; }
static int capture_mode(int *mode) { return *mode = 0, OK; }
static int is_capturing(handle stream, int *out) { return *out = stream && stream == noting, OK; }
static int wait(handle stream, handle event, unsigned flags) {
  if (stream && stream == noting) return OUTSIDE; /* of the capture was the event recorded */
  return count("wait"), event ? OK : INVALID;
}
static int load_library(handle *out, const void *code, void *a, void *b, unsigned n, void *c, void *d, unsigned m) {
  return *out = fresh(), *(char *)code && memcmp(code, "\177ELF", 4) ? WRONG_CODE : OK;
}
static int kernel_of(handle *out, handle library, const char *name) { return *out = library, OK; }
static int function_of(handle *out, handle kernel) { return *out = kernel, OK; }
static int kernel_attribute(int *out, int which, handle kernel, int d) { return *out = 64, OK; }
static int function_attribute(int *out, int which, handle f) { return *out = 64, OK; }

static int launch_ex(const launch_config *c, handle f, void **arguments, void **extra) {
  count("launch");
  uint64_t threads = (uint64_t)c->block[0] * c->block[1] * c->block[2];
  int fits = c->grid[0] && c->grid[0] <= MOST_OF_X && c->grid[1] && c->grid[1] <= MOST_OF_YZ &&
             c->grid[2] && c->grid[2] <= MOST_OF_YZ && threads && threads <= MOST_THREADS;
  if (!fits) return INVALID;
  uint64_t words[MOST_WORDS];
  int n = words_of(f);
  for (int i = 0; i < n; i++) words[i] = *(uint64_t *)arguments[i];
  return do_on(c->stream, (work){.kind = RUN, .function = f, .config = *c, .words = n < 0 ? 0 : words});
}
static int launch(handle f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
                  unsigned bz, unsigned shared, handle stream, void **arguments, void **extra) {
  launch_config config = {{gx, gy, gz}, {bx, by, bz}, shared, stream};
  return launch_ex(&config, f, arguments, extra);
}

/* graphs: what is launched on the stream that notes is counted when it is noted; kept for ever */
static int begin_capture(handle stream, int mode) {
  if (noting || !stream) return INVALID; /* the default stream cannot note */
  return noting = stream, OK;
}
static int end_capture(handle stream, handle *out) {
  if (stream != noting) return INVALID;
  work *first = calloc(1, sizeof *first); /* moves no bytes: an empty graph is one, too */
  first->next = noted;
  noted = 0, end_of_noted = &noted;
  return noting = 0, *out = first, OK;
}
static int instantiate(handle *out, handle graph, uint64_t flags) { return *out = graph, OK; }
static int launch_graph(handle graph, handle stream) {
  count("graph");
  if (noting) return INVALID;
  for (const work *one = graph; one; one = one->next)
    if (do_now(one)) return LAUNCH_FAILED;
  return OK;
}

static int error_name(int error, const char **out) { return *out = "STUB_ERROR", OK; }
static int error_text(int error, const char **out) { return *out = "the stub driver refuses", OK; }
static int not_supported(void) { return NOT_SUPPORTED; }

/* --- what cuda.bindings looks up by name ------------------------------------------------------ */

static int get_address(const char *name, void **out, int v, uint64_t flags);
static int get_address_v2(const char *name, void **out, int v, uint64_t flags, int *status);

static const struct {
  const char *name;
  void *function;
} table[] = {
    {"cuInit", init}, {"cuDriverGetVersion", version}, {"cuGetProcAddress", get_address_v2},
    {"cuDeviceGet", get_device}, {"cuDeviceGetCount", device_count},
    {"cuDeviceGetName", device_name}, {"cuDeviceGetUuid", device_uuid},
    {"cuDeviceTotalMem", device_memory}, {"cuDeviceGetAttribute", device_attribute},
    {"cuDevicePrimaryCtxRetain", retain}, {"cuDevicePrimaryCtxRelease", release},
    {"cuDevicePrimaryCtxGetState", context_state}, {"cuCtxGetCurrent", get_current},
    {"cuCtxSetCurrent", set_current}, {"cuCtxPushCurrent", set_current},
    {"cuCtxPopCurrent", pop_current}, {"cuCtxGetDevice", context_device},
    {"cuCtxGetId", context_id}, {"cuCtxSynchronize", synchronize}, {"cuMemGetInfo", mem_info},
    {"cuMemAlloc", mem_alloc}, {"cuMemFree", mem_free_here}, {"cuMemcpyHtoD", copy_up},
    {"cuMemcpyDtoH", copy_down}, {"cuMemcpyDtoD", copy_there},
    {"cuMemcpyHtoDAsync", copy_up_async}, {"cuMemcpyDtoHAsync", copy_down_async},
    {"cuMemcpyDtoDAsync", copy_there_async}, {"cuMemsetD8", set_bytes},
    {"cuMemsetD8Async", set_bytes_async}, {"cuMemAllocAsync", mem_alloc_async},
    {"cuMemFreeAsync", mem_free_async}, {"cuDeviceGetDefaultMemPool", default_pool},
    {"cuMemPoolSetAttribute", set_pool_attribute},
    {"cuPointerGetAttribute", pointer_attribute}, {"cuStreamCreate", make_stream},
    {"cuStreamDestroy", drop}, {"cuStreamQuery", query}, {"cuStreamSynchronize", synchronize_one},
    {"cuStreamWaitEvent", wait}, {"cuEventCreate", make_event}, {"cuEventDestroy", drop},
    {"cuEventQuery", query}, {"cuEventSynchronize", synchronize_one}, {"cuEventRecord", record},
    {"cuLibraryLoadData", load_library}, {"cuLibraryUnload", drop},
    {"cuLibraryGetKernel", kernel_of}, {"cuKernelGetFunction", function_of},
    {"cuKernelGetAttribute", kernel_attribute}, {"cuFuncGetAttribute", function_attribute},
    {"cuStreamIsCapturing", is_capturing}, {"cuThreadExchangeStreamCaptureMode", capture_mode},
    {"cuStreamBeginCapture", begin_capture}, {"cuStreamEndCapture", end_capture},
    {"cuGraphInstantiate", instantiate}, {"cuGraphInstantiateWithFlags", instantiate},
    {"cuGraphLaunch", launch_graph}, {"cuGraphDestroy", drop}, {"cuGraphExecDestroy", drop},
    {"cuLaunchKernelEx", launch_ex}, {"cuLaunchKernel", launch}, {"cuGetErrorName", error_name},
    {"cuGetErrorString", error_text},
};

static int get_address(const char *name, void **out, int v, uint64_t flags) {
  *out = not_supported;
  for (size_t i = 0; i < sizeof table / sizeof *table; i++)
    if (!strcmp(table[i].name, name)) *out = table[i].function;
  return OK;
}
static int get_address_v2(const char *name, void **out, int v, uint64_t flags, int *status) {
  if (status) *status = 0;
  return get_address(name, out, v, flags);
}

int cuGetProcAddress_v2(const char *name, void **out, int v, uint64_t flags, int *status) {
  return get_address_v2(name, out, v, flags, status);
}
int cuGetProcAddress(const char *name, void **out, int v, uint64_t flags) {
  return get_address(name, out, v, flags);
}
int cuInit(unsigned flags) { return init(flags); }
int cuDriverGetVersion(int *out) { return version(out); }
