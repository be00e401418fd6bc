/* Runs the blocks of a kernel that was compiled for the CPU: a thread is a fiber of its own.

   A thread runs until it waits for others (a barrier of its block, an exchange within its warp) or
   returns; then the next one runs, on the same stack if the first has returned. When none can run,
   those who have all that they wait for go on. Whoever waits for ever is reported.

   What threads read (their place, their block's memory) lies at a fixed address, and so do pointers
   to the functions that they call: machine code of another process is good here. */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#ifndef __x86_64__
#include <ucontext.h>
#endif

enum { MOST_THREADS = 1024, WARP = 32, SLOTS = 16 };
enum { STACK = 1 << 18, GUARD = 1 << 12 };

/* --- what compiled code sees ------------------------------------------------------------------ */

typedef struct {
  int32_t thread[3], block[3], block_size[3], grid_size[3], lane, unused;
  void *functions[SLOTS];
} state;
#define AT ((char *)0x6E0000000000)
#define SHARED (AT + (1 << 16))
enum { SHARED_SIZE = 1 << 20 };
static state *const now = (state *)AT;

/* --- fibers ----------------------------------------------------------------------------------- */

typedef struct fiber {
#ifdef __x86_64__
  void *top;
#else
  ucontext_t context;
#endif
  char *stack;
  struct fiber *next;
} fiber;

static void fiber_main(void);

#ifdef __x86_64__
void emulator_switch(void **from, void *to);
__asm__(
    ".text\n.globl emulator_switch\n.type emulator_switch,@function\nemulator_switch:\n"
    "  pushq %rbp\n  pushq %rbx\n  pushq %r12\n  pushq %r13\n  pushq %r14\n  pushq %r15\n"
    "  movq %rsp, (%rdi)\n  movq %rsi, %rsp\n"
    "  popq %r15\n  popq %r14\n  popq %r13\n  popq %r12\n  popq %rbx\n  popq %rbp\n  ret\n"
    ".size emulator_switch,.-emulator_switch\n");

static void prepare(fiber *f) {
  /* as if it had called emulator_switch; the stack is aligned as after a call */
  void **top = (void **)(f->stack + STACK - 64);
  *--top = 0;
  *--top = (void *)fiber_main;
  for (int i = 0; i < 6; i++) *--top = 0;
  f->top = top;
}
static void jump(fiber *from, fiber *to) { emulator_switch(&from->top, to->top); }
#else
static void prepare(fiber *f) {
  getcontext(&f->context);
  f->context.uc_stack.ss_sp = f->stack;
  f->context.uc_stack.ss_size = STACK;
  f->context.uc_link = 0;
  makecontext(&f->context, fiber_main, 0);
}
static void jump(fiber *from, fiber *to) { swapcontext(&from->context, &to->context); }
#endif

static fiber fibers[MOST_THREADS], *unused_fibers, caller, *current;

static int make_fibers(void) {
  static char *stacks;
  size_t each = STACK + GUARD;
  if (!stacks) {
    int kind = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    stacks = mmap(0, each * MOST_THREADS, PROT_READ | PROT_WRITE, kind, -1, 0);
    if (stacks == MAP_FAILED) return stacks = 0, -1;
    for (int i = 0; i < MOST_THREADS; i++) mprotect(stacks + i * each, GUARD, PROT_NONE);
  }
  unused_fibers = 0;
  for (int i = MOST_THREADS - 1; i >= 0; i--) {
    fibers[i].stack = stacks + i * each + GUARD;
    prepare(&fibers[i]);
    fibers[i].next = unused_fibers;
    unused_fibers = &fibers[i];
  }
  return 0;
}

/* --- threads of the block that runs ----------------------------------------------------------- */

enum { NEW, RUNS, WAITS_FOR_BLOCK, WAITS_FOR_WARP, RETURNED };
/* what threads exchange where they wait */
enum { NOTHING, COUNT, AND, OR, SHUFFLE, SHUFFLE_UP, SHUFFLE_DOWN, SHUFFLE_XOR, ALL, ANY, EQUAL, BALLOT, MATCH_ANY, MATCH_ALL };
typedef struct {
  int status, kind;
  int64_t site, value, other, result;
  uint32_t mask;
  fiber *fiber;
} thread;
static thread threads[MOST_THREADS];
static int n_threads, n_returned, running, queue[MOST_THREADS], first_queued, n_queued;

typedef struct {
  int64_t code; /* 0, 1 threads wait for others for ever, 2 an index, 3 an address, 4 a lane */
  int64_t site, other_site, returned, waiting, a, b, c;
  int32_t thread[3], block[3];
} report;
static report *failure;

typedef void (*kernel)(int64_t);
static kernel entry;
static int64_t arguments;

static uint64_t seed;
static uint64_t draw(uint64_t below) {
  seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
  return seed % below;
}

static void enqueue(int t) {
  queue[(first_queued + n_queued) % MOST_THREADS] = t;
  if (seed && n_queued) { /* any of those that wait may be the next one */
    int *last = &queue[(first_queued + n_queued) % MOST_THREADS];
    int *other = &queue[(first_queued + draw(n_queued + 1)) % MOST_THREADS];
    int kept = *last;
    *last = *other, *other = kept;
  }
  n_queued++;
}

static void locate(int t) {
  running = t;
  now->lane = t % WARP;
  now->thread[0] = t % now->block_size[0];
  now->thread[1] = t / now->block_size[0] % now->block_size[1];
  now->thread[2] = t / now->block_size[0] / now->block_size[1];
}

static void give_up(int code, int64_t site) {
  failure->code = code, failure->site = site;
  memcpy(failure->thread, now->thread, sizeof now->thread);
  memcpy(failure->block, now->block, sizeof now->block);
  fiber dead, *back = current = &caller;
  jump(&dead, back);
}

/* --- who may go on ---------------------------------------------------------------------------- */

static int release_block(void) {
  int64_t count = 0;
  for (int t = 0; t < n_threads; t++) {
    if (threads[t].status != WAITS_FOR_BLOCK || threads[t].site != threads[0].site) return 0;
    count += threads[t].value != 0;
  }
  for (int t = 0; t < n_threads; t++) {
    thread *one = &threads[t];
    one->result = one->kind == COUNT ? count : one->kind == AND ? count == n_threads : count > 0;
    one->status = RUNS;
    enqueue(t);
  }
  return 1;
}

static int64_t exchanged(int first, int lane, uint32_t lanes) {
  thread *warp = threads + first, *one = warp + lane;
  int source = lane;
  int64_t found = 0, all = 1;
  switch (one->kind) {
    case SHUFFLE: source = one->other & 31; break;
    case SHUFFLE_UP: source = lane - one->other < 0 ? lane : lane - one->other; break;
    case SHUFFLE_DOWN: source = lane + one->other > 31 ? lane : lane + one->other; break;
    case SHUFFLE_XOR: source = lane ^ (one->other & 31); break;
    default:
      for (int k = 0; k < WARP; k++) {
        if (!(lanes >> k & 1)) continue;
        int same = one->kind < MATCH_ANY ? warp[k].value != 0 : warp[k].value == one->value;
        found |= (int64_t)same << k;
        all &= one->kind == EQUAL ? !warp[k].value == !one->value : same;
      }
      if (one->kind == ANY) return found != 0;
      return one->kind == BALLOT || one->kind == MATCH_ANY ? found : one->kind == MATCH_ALL ? (all ? lanes : 0) : all;
  }
  if (!(lanes >> source & 1)) {
    locate(first + lane);
    failure->a = lane, failure->b = source;
    give_up(4, one->site);
  }
  return warp[source].value;
}

static int release_warps(void) {
  int found = 0;
  for (int t = 0; t < n_threads; t++) {
    if (threads[t].status != WAITS_FOR_WARP) continue;
    int first = t - t % WARP, complete = 1;
    uint32_t lanes = 0;
    for (int k = 0; k < WARP && first + k < n_threads; k++) {
      thread *one = &threads[first + k];
      if (!(threads[t].mask >> k & 1) || one->status == RETURNED) continue;
      complete &= one->status == WAITS_FOR_WARP && one->mask == threads[t].mask &&
                  one->site == threads[t].site;
      lanes |= (uint32_t)1 << k;
    }
    if (!complete || !(lanes >> t % WARP & 1)) continue;
    for (int k = 0; k < WARP; k++)
      if (lanes >> k & 1 && threads[first + k].kind) threads[first + k].result = exchanged(first, k, lanes);
    for (int k = 0; k < WARP; k++)
      if (lanes >> k & 1) threads[first + k].status = RUNS, enqueue(first + k);
    found = 1;
  }
  return found;
}

/* Run the next thread that can; come back when the thread that waits here may go on, or at once
   with a thread to start if this fiber's own has returned. */
static int next(int is_free) {
  if (!n_queued && n_returned < n_threads && !release_block() && !release_warps()) {
    int stuck = 0;
    while (threads[stuck].status == RETURNED) stuck++;
    for (int t = 0; t < n_threads; t++) {
      failure->waiting += threads[t].status != RETURNED && threads[t].site == threads[stuck].site;
      if (threads[t].status != RETURNED && threads[t].site != threads[stuck].site)
        failure->other_site = threads[t].site;
    }
    failure->returned = n_returned;
    locate(stuck);
    give_up(1, threads[stuck].site);
  }
  fiber *here = current, *to = &caller;
  int t = -1;
  if (n_queued) {
    t = queue[first_queued];
    first_queued = (first_queued + 1) % MOST_THREADS, n_queued--;
    locate(t);
    if (threads[t].status == NEW && is_free) return t;
    if (threads[t].status == NEW) {
      to = unused_fibers;
      unused_fibers = to->next;
    } else
      to = threads[t].fiber;
  }
  if (is_free) here->next = unused_fibers, unused_fibers = here;
  if (to == here) return t;
  current = to;
  jump(here, to);
  return running;
}

static void fiber_main(void) {
  for (int t = running;; t = next(1)) {
    threads[t].status = RUNS;
    entry(arguments);
    threads[t].status = RETURNED;
    n_returned++;
  }
}

/* --- what compiled code calls ----------------------------------------------------------------- */

static int64_t sync_block(int64_t kind, int64_t value, int64_t site) {
  thread *one = &threads[running];
  *one = (thread){.status = WAITS_FOR_BLOCK, .kind = kind, .site = site, .value = value, .fiber = current};
  next(0);
  return one->result;
}
static int64_t sync_warp(int64_t kind, int64_t mask, int64_t value, int64_t other, int64_t site) {
  thread *one = &threads[running];
  *one = (thread){WAITS_FOR_WARP, kind, site, value, other, 0, (uint32_t)mask, current};
  if (!(one->mask >> running % WARP & 1)) {
    failure->a = failure->b = running % WARP;
    give_up(4, site);
  }
  next(0);
  return one->result;
}
static int64_t active_lanes(void) {
  int64_t found = 0;
  for (int k = 0, first = running - running % WARP; k < WARP && first + k < n_threads; k++)
    found |= (int64_t)(threads[first + k].status != RETURNED) << k;
  return found;
}
static void bad_index(int64_t axis, int64_t index, int64_t size, int64_t site) {
  failure->a = axis, failure->b = index, failure->c = size;
  give_up(2, site);
}
static void bad_address(int64_t address, int64_t alignment, int64_t site) {
  failure->a = address, failure->b = alignment;
  give_up(3, site);
}

/* --- what Python calls ------------------------------------------------------------------------ */

int emulator_open(void) {
  static int opened;
  if (opened) return 0;
  int kind = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE;
  size_t size = SHARED - AT + SHARED_SIZE;
  if (mmap(AT, size, PROT_READ | PROT_WRITE, kind, -1, 0) != AT) return -1;
  void *functions[] = {sync_block, sync_warp, active_lanes, bad_index, bad_address};
  memcpy(now->functions, functions, sizeof functions);
  return opened = 1, 0;
}

/* Run blocks in order, or, with a seed that is not zero, blocks and threads in a random one.
   `poison` is what a block's memory holds when it begins. */
int emulator_run(kernel function, int64_t packed, const int32_t *grid, const int32_t *block,
                 const void *poison, int64_t poisoned, uint64_t random, report *out) {
  int64_t blocks = (int64_t)grid[0] * grid[1] * grid[2], *order = 0;
  entry = function, arguments = packed, seed = random, failure = out;
  memset(out, 0, sizeof *out);
  n_threads = block[0] * block[1] * block[2];
  if (n_threads > MOST_THREADS || poisoned > SHARED_SIZE || make_fibers()) return -1;
  memcpy(now->block_size, block, sizeof now->block_size);
  memcpy(now->grid_size, grid, sizeof now->grid_size);
  if (seed) {
    if (!(order = malloc(blocks * sizeof *order))) return -1;
    for (int64_t i = 0; i < blocks; i++) {
      int64_t j = draw(i + 1);
      order[i] = order[j], order[j] = i;
    }
  }
  for (int64_t k = 0; k < blocks && !out->code; k++) {
    int64_t b = order ? order[k] : k;
    now->block[0] = b % grid[0];
    now->block[1] = b / grid[0] % grid[1];
    now->block[2] = b / grid[0] / grid[1];
    if (poisoned) memcpy(SHARED, poison, poisoned);
    n_returned = n_queued = first_queued = 0;
    for (int t = 0; t < n_threads; t++) threads[t].status = NEW, enqueue(t);
    current = unused_fibers;
    unused_fibers = current->next;
    first_queued = 1 % MOST_THREADS, n_queued--;
    locate(queue[0]);
    jump(&caller, current);
  }
  free(order);
  return out->code != 0;
}
