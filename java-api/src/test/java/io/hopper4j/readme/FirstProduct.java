package io.hopper4j.readme;

import io.hopper4j.*;
import io.hopper4j.quant.ScaleKind;
import java.lang.foreign.Arena;

final class FirstProduct {
    public static void main(final String... args) {
        final Device gpu = Device.all().getFirst();
        try (Arena host = Arena.ofConfined();
                Kernels<DeviceTensor> kernels = Kernels.cuda(gpu);
                Stream stream = gpu.openStream();
                DeviceArena memory = gpu.openArena(stream)) {
            final HostTensor x = HostTensor.allocate(host, DType.BF16, 64, 256); // activations [M, K]
            final HostTensor w = HostTensor.allocate(host, DType.BF16, 512, 256); // weights [N, K]
            x.setFloat(3, 5, 100);
            w.setFloat(-2, 40, 100);
            final DeviceTensor a = memory.allocate(x.spec());
            final DeviceTensor b = memory.allocate(w.spec());
            a.copyFrom(x, stream);
            b.copyFrom(w, stream);
            final var aFp8 = Scaled.activation(
                    memory.allocate(DType.F8_E4M3, 64, 256), memory.allocate(Scaled.activationScaleSpec(64, 256)));
            final var bFp8 = Scaled.weight(
                    memory.allocate(DType.F8_E4M3, 512, 256), memory.allocate(Scaled.weightScaleSpec(512, 256)));
            kernels.quantize(a, ScaleKind.F32, aFp8, stream);
            kernels.quantize(b, ScaleKind.F32, bFp8, stream);
            final DeviceTensor out = memory.allocate(DType.BF16, 64, 512);
            kernels.gemm(aFp8, bFp8, out, stream); // out = x w^T
            final HostTensor y = HostTensor.allocate(host, out.spec());
            out.copyTo(y, stream);
            stream.synchronize();
            System.out.println(y.getFloat(5, 40)); // -6.0
        }
    }
}
