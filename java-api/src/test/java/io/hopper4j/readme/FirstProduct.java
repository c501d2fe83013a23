package io.hopper4j.readme;

import io.hopper4j.*;
import io.hopper4j.quant.ScaleKind;
import java.lang.foreign.Arena;

final class FirstProduct {
    public static void main(final String... args) {
        final Device gpu = Device.all().getFirst();
        try (var host = Arena.ofConfined();
                var kernels = Kernels.cuda(gpu);
                var stream = gpu.openStream();
                var memory = gpu.openArena(stream)) {
            final var x = HostTensor.allocate(host, DType.BF16, 64, 256); // activations [M, K]
            final var w = HostTensor.allocate(host, DType.BF16, 512, 256); // weights [N, K]
            x.setFloat(3, 5, 100);
            w.setFloat(-2, 40, 100);
            final var a = memory.allocateActivation(64, 256);
            final var b = memory.allocateWeight(512, 256);
            kernels.quantize(memory.copyOf(x, stream), ScaleKind.F32, a, stream);
            kernels.quantize(memory.copyOf(w, stream), ScaleKind.F32, b, stream);
            final var product = memory.allocate(DType.BF16, 64, 512);
            kernels.gemm(a, b, product, stream); // x w^T
            final var y = HostTensor.allocate(host, product.spec());
            product.copyTo(y, stream);
            stream.synchronize();
            System.out.println(y.getFloat(5, 40)); // -6.0
        }
    }
}
