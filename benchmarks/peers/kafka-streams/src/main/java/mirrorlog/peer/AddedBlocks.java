package mirrorlog.peer;

import org.roaringbitmap.RoaringBitmap;

/** Plain: every block is added to a bitmap. */
final class AddedBlocks implements OpenRecords.Blocks {
    private RoaringBitmap bitmap = new RoaringBitmap();
    private long count;

    @Override
    public void take(long first, long end) {
        if (end - first == 1) {
            bitmap.add((int) first);
        } else {
            bitmap.add(first, end);
        }
        count += end - first;
    }

    @Override
    public long count() {
        return count;
    }

    @Override
    public RoaringBitmap close() {
        RoaringBitmap closed = bitmap;
        bitmap = new RoaringBitmap();
        count = 0;
        return closed;
    }
}
