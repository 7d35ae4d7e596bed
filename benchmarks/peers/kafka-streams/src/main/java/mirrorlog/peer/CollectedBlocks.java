package mirrorlog.peer;

import java.util.Arrays;
import org.roaringbitmap.RoaringBitmap;

/** Tuned: blocks are only collected; one sort of them all makes the bitmap. */
final class CollectedBlocks implements OpenRecords.Blocks {
    private int[] blocks = new int[1 << 16];
    private int count;

    @Override
    public void take(long first, long end) {
        if (count + end - first > blocks.length) {
            blocks = Arrays.copyOf(blocks, Math.toIntExact(Math.max(2L * blocks.length, count + end - first)));
        }
        for (long block = first; block < end; block++) {
            blocks[count++] = (int) block;
        }
    }

    @Override
    public long count() {
        return count;
    }

    @Override
    public RoaringBitmap close() {
        RoaringBitmap closed = RoaringBitmap.bitmapOfUnordered(Arrays.copyOf(blocks, count));
        closed.runOptimize();
        count = 0;
        return closed;
    }
}
