/* QEMU plugin: what a program executes, by kind of instruction, and what of it a Cortex-A72 would wait for.
 *
 * The program ends a region with syscall(9999, tag). What ran since the last mark is then written as one line of JSON
 * under the tag, and counting starts anew; the last line, written at exit, has the tag -1. On a real kernel the call
 * does nothing but fail.
 *
 * What other threads than the marking one do is not counted (onnxruntime keeps one for its own purposes), so counts
 * repeat. The caches and the branch predictor are models: L1
 * data 32 KB 2-way and L2 1 MB 16-way, both least recently used, write-allocate, without prefetch; branches by a
 * global history of 12 bits into 4096 two-bit counters, indirect ones to their last target under the same history,
 * returns always right.
 * Source: Cortex-A72 technical reference manual, 6.2 (caches) and 6.5 (program flow prediction), which does not tell
 * the predictor's size; Arm architecture reference manual, C4.1 (encodings).
 *
 * The declarations are QEMU's plugin interface, which Debian ships no header for: version 1 for QEMU up to 8,
 * version 2 from 9 on (-DAPI=2). From version 3 on instructions are copied out instead of pointed to; QEMU tells which
 * it has and still takes plugins of version 2. */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef uint64_t plugin_id;
typedef uint32_t mem_info;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
typedef struct { const char *target_name; struct { int min, current; } version; } qemu_info;   /* its start */
enum { NO_REGISTERS = 0, READ_AND_WRITE = 3 };
void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id, void (*)(plugin_id, struct qemu_plugin_tb *));
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *, void (*)(unsigned, void *), int, void *);
void qemu_plugin_register_vcpu_mem_cb(struct qemu_plugin_insn *, void (*)(unsigned, mem_info, uint64_t, void *), int,
                                      int, void *);
void qemu_plugin_register_vcpu_syscall_cb(plugin_id, void (*)(plugin_id, unsigned, int64_t, uint64_t, uint64_t,
                                                              uint64_t, uint64_t, uint64_t, uint64_t, uint64_t,
                                                              uint64_t));
void qemu_plugin_register_atexit_cb(plugin_id, void (*)(plugin_id, void *), void *);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb *);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *, void *, size_t);   /* version 1 and 2: the first */
unsigned qemu_plugin_mem_size_shift(mem_info);
__attribute__((visibility("default"))) int qemu_plugin_version = API;

enum { MARK = 9999 };

/* ---- kinds of instructions ---- */

enum Kind {
    INTEGER, MULTIPLY, DIVIDE, BRANCH, SYSTEM, LOAD, STORE, SIMD_LOAD, SIMD_STORE,
    SIMD_FMA, SIMD_INT_MAC, SIMD_FLOAT, SIMD_INT, SCALAR_FLOAT, FLOAT_DIVIDE, CRYPTO, NUM_KINDS
};
static const char *const kind_names[NUM_KINDS] = {
    "integer", "multiply", "divide", "branch", "system", "load", "store", "simd_load", "simd_store",
    "simd_fma", "simd_int_mac", "simd_float", "simd_int", "scalar_float", "float_divide", "crypto",
};

static unsigned bits(uint32_t word, int high, int low)
{
    return word >> low & ((1u << (high - low + 1)) - 1);
}

static enum Kind load_or_store(uint32_t word)
{
    bool is_simd = bits(word, 26, 26), is_load = bits(word, 22, 22);
    unsigned group = bits(word, 29, 28);
    if (is_simd && group == 0 && !bits(word, 31, 31))       /* ld1 to ld4, st1 to st4 */
        return is_load ? SIMD_LOAD : SIMD_STORE;
    if (group == 1)                                         /* literal */
        return is_simd ? SIMD_LOAD : LOAD;
    if (group == 3) {                                       /* one register */
        unsigned opc = bits(word, 23, 22);
        if (is_simd)
            return opc & 1 ? SIMD_LOAD : SIMD_STORE;
        return opc == 0 ? STORE : LOAD;
    }
    if (group == 2 && is_simd)                              /* pair */
        return is_load ? SIMD_LOAD : SIMD_STORE;
    return is_load ? LOAD : STORE;                          /* pair, exclusive */
}

static enum Kind float_or_simd(uint32_t word)
{
    if ((word & 0xff3e0c00) == 0x4e280800 || (word & 0xff200c00) == 0x5e000000 || (word & 0xff3e0c00) == 0x5e280800)
        return CRYPTO;                                      /* aes, sha */
    if ((word & 0xbf20fc00) == 0x0e20e000 && bits(word, 23, 22) != 0)
        return CRYPTO;                                      /* pmull to 128 bits */
    if ((word & 0x1f000000) == 0x1f000000)
        return SIMD_FMA;                                    /* fmadd: scalar, on the same pipes */
    if ((word & 0x5f000000) == 0x1e000000)                  /* scalar floating point */
        return bits(word, 11, 10) == 2 && bits(word, 15, 12) == 1 ? FLOAT_DIVIDE : SCALAR_FLOAT;
    bool is_unsigned = bits(word, 29, 29);
    if ((word & 0x9f200400) == 0x0e200400) {                /* three registers of the same size */
        unsigned opcode = bits(word, 15, 11);
        if (opcode == 0x19 && !is_unsigned)
            return SIMD_FMA;
        if (opcode == 0x1f && is_unsigned && !bits(word, 23, 23))
            return FLOAT_DIVIDE;
        if (opcode == 0x12 || opcode == 0x13)
            return SIMD_INT_MAC;
        return opcode >= 0x18 ? SIMD_FLOAT : SIMD_INT;
    }
    if ((word & 0x9f200c00) == 0x0e200000) {                /* three registers of different sizes */
        unsigned opcode = bits(word, 15, 12);
        return opcode == 8 || opcode == 10 || opcode == 12 ? SIMD_INT_MAC : SIMD_INT;
    }
    if ((word & 0x9f000400) == 0x0f000000) {                /* by element */
        unsigned opcode = bits(word, 15, 12);
        if (!is_unsigned && (opcode == 1 || opcode == 5))
            return SIMD_FMA;
        return opcode == 9 ? SIMD_FLOAT : SIMD_INT_MAC;
    }
    if ((word & 0x9f3e0c00) == 0x0e200800) {                /* two registers */
        unsigned opcode = bits(word, 16, 12);
        if (opcode == 6)
            return SIMD_INT_MAC;                            /* sadalp */
        return opcode >= 0xc && (opcode < 0x12 || opcode > 0x14) ? SIMD_FLOAT : SIMD_INT;
    }
    return SIMD_INT;
}

static enum Kind kind_of(uint32_t word)
{
    unsigned group = bits(word, 28, 25);
    if ((group & 0xe) == 0x8)
        return INTEGER;                                     /* with an immediate */
    if ((group & 0xe) == 0xa)
        return bits(word, 31, 24) == 0xd5 ? SYSTEM : BRANCH;
    if ((group & 0x5) == 0x4)
        return load_or_store(word);
    if ((group & 0x7) == 0x5) {                             /* with registers */
        if ((word & 0x1f000000) == 0x1b000000)
            return MULTIPLY;
        if ((word & 0x5fe0f000) == 0x1ac00000 && bits(word, 15, 11) == 1)
            return DIVIDE;
        return INTEGER;
    }
    if ((group & 0x7) == 0x7)
        return float_or_simd(word);
    return SYSTEM;
}

/* ---- blocks of instructions, as QEMU translates them: each ends at a branch ---- */

enum End { FALLS, CONDITIONAL, INDIRECT };
typedef struct Block {
    struct Block *next;
    uint64_t runs, start, end;                              /* end: address behind the last instruction */
    uint32_t kinds[NUM_KINDS];
    enum End how;
} Block;

static bool does_copy;                                      /* qemu_plugin_insn_data() */
static FILE *output;
static int64_t counted_vcpu = -1;                           /* of the thread that has marked */
static Block *blocks, *before;
static struct { uint64_t accesses, l1_misses, l2_misses, branch_misses; } waits;

static enum End end_of(uint32_t word)
{
    if ((word & 0xff000010) == 0x54000000 || (word & 0x7c000000) == 0x34000000)
        return CONDITIONAL;                                 /* b.cond; cbz, cbnz, tbz, tbnz */
    if ((word & 0xffdffc1f) == 0xd61f0000)
        return INDIRECT;                                    /* br, blr */
    return FALLS;
}

/* ---- caches ---- */

typedef struct { uint64_t lines[16], used[16]; } Set;
static Set l1[256], l2[1024];
static uint64_t now;

static bool holds(Set *set, int ways, uint64_t line)
{
    int oldest = 0;
    for (int way = 0; way < ways; way++) {
        if (set->lines[way] == line) {
            set->used[way] = now;
            return true;
        }
        if (set->used[way] < set->used[oldest])
            oldest = way;
    }
    set->lines[oldest] = line;
    set->used[oldest] = now;
    return false;
}

static void touch(uint64_t line)                            /* counted from 1: 0 is an empty way */
{
    now++;
    if (holds(&l1[line % 256], 2, line))
        return;
    waits.l1_misses++;
    if (!holds(&l2[line % 1024], 16, line))
        waits.l2_misses++;
}

static void on_access(unsigned vcpu, mem_info info, uint64_t address, void *data)
{
    uint64_t last = address + (1u << qemu_plugin_mem_size_shift(info)) - 1;
    if (vcpu != counted_vcpu)
        return;
    waits.accesses++;
    touch((address >> 6) + 1);
    if (last >> 6 != address >> 6)
        touch((last >> 6) + 1);
}

/* ---- branches ---- */

enum { HISTORY = 4095 };
static uint8_t counters[HISTORY + 1];                       /* 0 and 1: not taken, 2 and 3: taken */
static uint64_t targets[HISTORY + 1];
static uint32_t history;

static void leave(const Block *block, uint64_t target)
{
    if (block->how == FALLS)
        return;
    uint32_t slot = ((block->end >> 2) ^ history) & HISTORY;
    if (block->how == INDIRECT) {
        waits.branch_misses += targets[slot] != target;
        targets[slot] = target;
        return;
    }
    bool taken = target != block->end;
    waits.branch_misses += (counters[slot] >= 2) != taken;
    if (taken && counters[slot] < 3)
        counters[slot]++;
    if (!taken && counters[slot] > 0)
        counters[slot]--;
    history = (history << 1 | taken) & HISTORY;
}

static void on_block(unsigned vcpu, void *data)
{
    Block *block = data;
    if (vcpu != counted_vcpu)
        return;
    if (before)
        leave(before, block->start);
    before = block;
    block->runs++;
}

static void on_translation(plugin_id id, struct qemu_plugin_tb *translated)
{
    size_t count = qemu_plugin_tb_n_insns(translated);
    uint32_t word = 0;
    Block *block = calloc(1, sizeof *block);
    if (!block)
        abort();
    for (size_t i = 0; i < count; i++) {
        struct qemu_plugin_insn *instruction = qemu_plugin_tb_get_insn(translated, i);
        const void *data = qemu_plugin_insn_data(instruction, &word, sizeof word);
        if (!does_copy)
            memcpy(&word, data, sizeof word);
        block->kinds[kind_of(word)]++;
        qemu_plugin_register_vcpu_mem_cb(instruction, on_access, NO_REGISTERS, READ_AND_WRITE, NULL);
    }
    block->start = qemu_plugin_tb_vaddr(translated);
    block->end = block->start + 4 * count;
    block->how = end_of(word);
    block->next = blocks;
    blocks = block;
    qemu_plugin_register_vcpu_tb_exec_cb(translated, on_block, NO_REGISTERS, block);
}

/* ---- regions ---- */

static void write_region(long long tag)
{
    uint64_t total = 0, kinds[NUM_KINDS] = {0};
    for (Block *block = blocks; block; block = block->next) {
        for (int kind = 0; kind < NUM_KINDS; kind++) {
            kinds[kind] += block->runs * block->kinds[kind];
            total += block->runs * block->kinds[kind];
        }
        block->runs = 0;
    }
    fprintf(output, "{\"tag\": %lld, \"instructions\": %llu", tag, (unsigned long long)total);
    for (int kind = 0; kind < NUM_KINDS; kind++)
        fprintf(output, ", \"%s\": %llu", kind_names[kind], (unsigned long long)kinds[kind]);
    fprintf(output, ", \"accesses\": %llu, \"l1_misses\": %llu, \"l2_misses\": %llu, \"branch_misses\": %llu}\n",
            (unsigned long long)waits.accesses, (unsigned long long)waits.l1_misses,
            (unsigned long long)waits.l2_misses, (unsigned long long)waits.branch_misses);
    fflush(output);
    memset(&waits, 0, sizeof waits);
}

static void on_syscall(plugin_id id, unsigned vcpu, int64_t number, uint64_t tag, uint64_t b, uint64_t c, uint64_t d,
                       uint64_t e, uint64_t f, uint64_t g, uint64_t h)
{
    if (number != MARK)
        return;
    write_region((long long)tag);
    counted_vcpu = vcpu;
}

static void on_exit_of_program(plugin_id id, void *data)
{
    write_region(-1);
}

__attribute__((visibility("default")))
int qemu_plugin_install(plugin_id id, const qemu_info *info, int argc, char **argv)
{
    does_copy = info->version.current >= 3;
    for (int i = 0; i < argc; i++)
        if (!strncmp(argv[i], "out=", 4))
            output = fopen(argv[i] + 4, "w");
    if (!output)
        return 1;
    qemu_plugin_register_vcpu_tb_trans_cb(id, on_translation);
    qemu_plugin_register_vcpu_syscall_cb(id, on_syscall);
    qemu_plugin_register_atexit_cb(id, on_exit_of_program, NULL);
    return 0;
}
