package io.hopper4j.cli;

import io.hopper4j.DType;
import io.hopper4j.DeviceArena;
import io.hopper4j.DeviceTensor;
import io.hopper4j.HostTensor;
import io.hopper4j.Scaled;
import io.hopper4j.Scaling;
import java.lang.foreign.Arena;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import org.jspecify.annotations.Nullable;

/**
 * What the card does at best, measured in the run that it is compared with.
 *
 * @param copyGBs device to device, read and written
 * @param readGBs read only
 * @param bf16Tflops cuBLASLt at 8192 x 8192 x 8192; NaN where it is not there
 * @param fp8Tflops the same, FP8 per tensor with fast accumulation
 * @param peerStoreGBs a direction, both at once, 24 SMs; NaN with one GPU
 * @param emptyKernelMicroseconds an empty kernel between two events
 * @param bandwidths by SM count and direction; with more than two GPUs also of each pair, and of all at once
 * @param skipped what was not measured, with the reason
 */
record Yardsticks(
        double copyGBs,
        double readGBs,
        double bf16Tflops,
        double fp8Tflops,
        double peerStoreGBs,
        double emptyKernelMicroseconds,
        List<Map<String, @Nullable Object>> bandwidths,
        List<Map<String, @Nullable Object>> skipped) {
    private static final long EDGE = 8192;
    private static final int REPETITIONS = 10;
    private static final int PEER_SMS = 24;
    private static final String ALL_TO_ALL = "allToAll";
    private static final List<Integer> SM_COUNTS = List.of(4, 8, 16, 24, 32, 64);

    /** Rates of an H100 SXM seen before, for floors where cuBLASLt is not there to measure them. */
    private static final double USUAL_FP8_TFLOPS = 1600;

    /**
     * Measures.
     *
     * @param peer the ordinal of another device, or -1
     */
    static Yardsticks measure(final BenchGpu gpu, final KernelTimer timer, final int peer, final long seed) {
        final NativeBench.Session session = gpu.session();
        final List<Map<String, @Nullable Object>> bandwidths = new ArrayList<>();
        final List<Map<String, @Nullable Object>> skipped = new ArrayList<>();
        final List<Integer> counts = new ArrayList<>(SM_COUNTS);
        counts.removeIf(sms -> sms >= gpu.device().info().smCount());
        counts.add(gpu.device().info().smCount());
        double read = 0;
        double copy = 0;
        for (final int sms : counts) {
            read = Math.max(read, add(bandwidths, session, NativeBench.Bandwidth.READ, sms, 1, -1));
            copy = Math.max(copy, add(bandwidths, session, NativeBench.Bandwidth.COPY, sms, 1, -1));
        }
        double peerStore = Double.NaN;
        if (peer < 0) {
            skipped.add(skip("peer bandwidth", "it needs two GPUs: --gpus 2"));
        } else {
            try {
                for (final NativeBench.Bandwidth kind :
                        List.of(NativeBench.Bandwidth.PEER_STORE, NativeBench.Bandwidth.PEER_LOAD)) {
                    for (int directions = 1; directions <= 2; directions++) {
                        for (final int sms : counts) {
                            final double gbs = add(bandwidths, session, kind, sms, directions, peer);
                            if (kind == NativeBench.Bandwidth.PEER_STORE && directions == 2 && sms == PEER_SMS) {
                                peerStore = gbs;
                            }
                        }
                    }
                }
            } catch (final NativeBench.Failure e) {
                skipped.add(skip("peer bandwidth", String.valueOf(e.getMessage())));
            }
        }
        if (gpu.devices().size() > 2) {
            try {
                addDevices(bandwidths, gpu);
            } catch (final NativeBench.Failure e) {
                skipped.add(skip("bandwidth of all devices", String.valueOf(e.getMessage())));
            }
        }
        final Map<NativeBench.Matmul, Double> rates = new LinkedHashMap<>();
        measureRates(gpu, timer, seed, rates, skipped);
        return new Yardsticks(
                copy,
                read,
                rates.getOrDefault(NativeBench.Matmul.BF16, Double.NaN),
                rates.getOrDefault(NativeBench.Matmul.FP8_PER_TENSOR, Double.NaN),
                peerStore,
                session.emptyKernelMicroseconds(),
                bandwidths,
                skipped);
    }

    private static double add(
            final List<Map<String, @Nullable Object>> bandwidths,
            final NativeBench.Session session,
            final NativeBench.Bandwidth kind,
            final int sms,
            final int directions,
            final int peer) {
        final double gbs = session.bandwidth(kind, sms, directions, peer, REPETITIONS);
        bandwidths.add(entry(kind.toString(), sms, directions, gbs));
        return gbs;
    }

    private static Map<String, @Nullable Object> entry(
            final String what, final int sms, final int directions, final double gbs) {
        final Map<String, @Nullable Object> entry = new LinkedHashMap<>();
        entry.put("what", what);
        entry.put("sms", (long) sms);
        entry.put("directions", (long) directions);
        entry.put("gbs", Rounded.of(gbs));
        return entry;
    }

    /** Stores of each pair both ways, and of all devices to all at once. */
    private static void addDevices(final List<Map<String, @Nullable Object>> bandwidths, final BenchGpu gpu) {
        final int[] ordinals =
                gpu.devices().stream().mapToInt(device -> device.index()).toArray();
        for (final int sms : List.of(PEER_SMS, gpu.device().info().smCount())) {
            for (int from = 0; from < ordinals.length; from++) {
                try (NativeBench.Session session = gpu.library().open(ordinals[from])) {
                    for (int to = from + 1; to < ordinals.length; to++) {
                        final double gbs =
                                session.bandwidth(NativeBench.Bandwidth.PEER_STORE, sms, 2, ordinals[to], REPETITIONS);
                        final Map<String, @Nullable Object> pair =
                                entry(NativeBench.Bandwidth.PEER_STORE.toString(), sms, 2, gbs);
                        pair.put("devices", List.of((long) ordinals[from], (long) ordinals[to]));
                        bandwidths.add(pair);
                    }
                }
            }
            final Map<String, @Nullable Object> all =
                    entry(ALL_TO_ALL, sms, 2, gpu.library().allToAll(ordinals, sms, REPETITIONS));
            all.put("devices", Arrays.stream(ordinals).asLongStream().boxed().toList());
            bandwidths.add(all);
        }
    }

    private static void measureRates(
            final BenchGpu gpu,
            final KernelTimer timer,
            final long seed,
            final Map<NativeBench.Matmul, Double> rates,
            final List<Map<String, @Nullable Object>> skipped) {
        try (Arena host = Arena.ofConfined();
                DeviceArena arena = gpu.openArena()) {
            final Scaled<HostTensor> drawn =
                    HostData.randomQuantized(host, new SplitMix64(seed), Scaling.ACTIVATION_1X128, EDGE, EDGE);
            final Scaled<DeviceTensor> fp8 = gpu.upload(arena, drawn);
            final DeviceTensor bf16 = arena.allocate(DType.BF16, EDGE, EDGE);
            gpu.kernels().dequantize(fp8, bf16, gpu.stream());
            final DeviceTensor out = arena.allocate(DType.BF16, EDGE, EDGE);
            for (final NativeBench.Matmul kind : List.of(NativeBench.Matmul.FP8_PER_TENSOR, NativeBench.Matmul.BF16)) {
                final long operand = kind == NativeBench.Matmul.BF16
                        ? bf16.address()
                        : fp8.values().address();
                try (NativeBench.Session.Product product =
                        gpu.session().open(kind, EDGE, EDGE, EDGE, operand, 0, operand, 0, out.address())) {
                    final double us = timer.time(() -> product.run(gpu.stream().handle()), KernelTimer.Flush.CLEAN)
                            .microseconds()
                            .median();
                    rates.put(kind, 2.0 * EDGE * EDGE * EDGE / us / 1e6);
                } catch (final NativeBench.Failure e) {
                    skipped.add(skip(
                            kind == NativeBench.Matmul.BF16 ? "bf16MatmulTflops" : "fp8PerTensorTflops",
                            String.valueOf(e.getMessage())));
                }
            }
            gpu.stream().synchronize();
        }
    }

    /** {@return an entry of a list of what was skipped} */
    static Map<String, @Nullable Object> skip(final String name, final String why) {
        final Map<String, @Nullable Object> entry = new LinkedHashMap<>();
        entry.put("name", name);
        entry.put("why", why);
        return entry;
    }

    /** {@return the floor of some work, by these yardsticks} */
    double floorMicroseconds(final BenchOperation.Work work) {
        final double fp8 = Double.isNaN(fp8Tflops) ? USUAL_FP8_TFLOPS : fp8Tflops;
        final double bf16 = Double.isNaN(bf16Tflops) ? USUAL_FP8_TFLOPS / 2 : bf16Tflops;
        final double local = work.floorMicroseconds(Math.max(copyGBs, readGBs), work.isBf16() ? bf16 : fp8);
        final BenchOperation.Traffic traffic = work.traffic();
        if (traffic == null) {
            return local;
        }
        final double store = storeGBs(traffic.ranks());
        return Double.isNaN(store) ? local : Math.max(local, traffic.remote() / store / 1e3);
    }

    /** {@return what leaves a rank's GPU where so many ranks exchange rows; NaN where nothing crosses} */
    private double storeGBs(final int ranks) {
        if (ranks < 2) {
            return Double.NaN;
        }
        return bandwidths.stream()
                .filter(entry -> ranks > 2
                        && ALL_TO_ALL.equals(entry.get("what"))
                        && Long.valueOf(PEER_SMS).equals(entry.get("sms")))
                .mapToDouble(entry -> ((Number) Objects.requireNonNull(entry.get("gbs"))).doubleValue())
                .findFirst()
                .orElse(peerStoreGBs);
    }

    /** {@return as results have them} */
    Map<String, @Nullable Object> toJson() {
        final Map<String, @Nullable Object> json = new LinkedHashMap<>();
        json.put("copyGBs", Rounded.of(copyGBs));
        json.put("readGBs", Rounded.of(readGBs));
        json.put("bf16MatmulTflops", Rounded.of(bf16Tflops));
        json.put("fp8PerTensorTflops", Rounded.of(fp8Tflops));
        json.put("peerStoreGBs", Rounded.of(peerStoreGBs));
        json.put("emptyKernelEventUs", Rounded.of(emptyKernelMicroseconds));
        json.put("bandwidths", bandwidths);
        json.put("skipped", skipped);
        return json;
    }

    @Override
    public String toString() {
        return "copy %s GB/s, read %s GB/s, FP8 %s TFLOPS, BF16 %s TFLOPS, store to a peer %s GB/s"
                .formatted(
                        Rounded.text(copyGBs),
                        Rounded.text(readGBs),
                        Rounded.text(fp8Tflops),
                        Rounded.text(bf16Tflops),
                        Rounded.text(peerStoreGBs));
    }
}
