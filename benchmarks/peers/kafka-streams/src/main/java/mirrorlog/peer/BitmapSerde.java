package mirrorlog.peer;

import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.ByteBuffer;
import org.apache.kafka.common.serialization.Serde;
import org.apache.kafka.common.serialization.Serdes;
import org.roaringbitmap.RoaringBitmap;

/** Roaring's portable form. */
final class BitmapSerde {
    private BitmapSerde() {}

    static Serde<RoaringBitmap> serde() {
        return Serdes.serdeFrom((topic, bitmap) -> bytes(bitmap), (topic, bytes) -> bitmap(bytes));
    }

    static byte[] bytes(RoaringBitmap bitmap) {
        ByteBuffer buffer = ByteBuffer.allocate(bitmap.serializedSizeInBytes());
        bitmap.serialize(buffer);
        return buffer.array();
    }

    private static RoaringBitmap bitmap(byte[] bytes) {
        RoaringBitmap bitmap = new RoaringBitmap();
        try {
            bitmap.deserialize(ByteBuffer.wrap(bytes));
        } catch (IOException error) {
            throw new UncheckedIOException(error);
        }
        return bitmap;
    }
}
