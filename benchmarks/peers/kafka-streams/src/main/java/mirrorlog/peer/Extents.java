package mirrorlog.peer;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.LongBuffer;
import org.apache.avro.generic.GenericRecord;

/** The extents of a command: two columns of little-endian integers. */
final class Extents {
    /** Takes the blocks {@code [first, end)}. */
    interface Blocks {
        void take(long first, long end);
    }

    private Extents() {}

    /** Every block that an extent touches, rounded outwards; an extent of no bytes touches none. */
    static void blocks(GenericRecord command, int blockSize, Blocks blocks) {
        LongBuffer offsets = column(command, "offsets");
        LongBuffer lengths = column(command, "lengths");
        for (int index = 0; index < offsets.limit(); index++) {
            long offset = offsets.get(index);
            long length = lengths.get(index);
            if (length > 0) {
                blocks.take(offset / blockSize, (offset + length - 1) / blockSize + 1);
            }
        }
    }

    private static LongBuffer column(GenericRecord command, String name) {
        return ((ByteBuffer) command.get(name)).slice().order(ByteOrder.LITTLE_ENDIAN).asLongBuffer();
    }
}
