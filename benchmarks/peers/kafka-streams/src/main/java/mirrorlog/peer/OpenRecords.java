package mirrorlog.peer;

import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.util.HashMap;
import java.util.Map;
import java.util.function.Supplier;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.common.utils.Bytes;
import org.apache.kafka.streams.processor.StateStore;
import org.apache.kafka.streams.processor.StateStoreContext;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.StoreBuilder;
import org.apache.kafka.streams.state.Stores;
import org.apache.kafka.streams.state.internals.CacheFlushListener;
import org.apache.kafka.streams.state.internals.CachedStateStore;
import org.roaringbitmap.RoaringBitmap;

/**
 * Records that are still open, in front of a RocksDB store with a changelog. Kafka Streams flushes caches before it commits
 * offsets ({@code ProcessorStateManager.flushCache}), and this store passes itself off as one: nothing is committed that the
 * changelog doesn't hold. A punctuator can't promise that: a commit between two of its calls loses what is open.
 */
final class OpenRecords implements StateStore, CachedStateStore<Bytes, byte[]> {
    /** A record with more blocks is written at once, so that the serialized bitmap fits a message. */
    private static final int MOST_BLOCKS = 250_000;

    /** The blocks of an open record. */
    interface Blocks extends Extents.Blocks {
        long count();

        /** What was taken since the last call. */
        RoaringBitmap close();
    }

    private final KeyValueStore<Bytes, RoaringBitmap> store;
    private final Supplier<Blocks> blocks;
    private final Map<String, Open> open = new HashMap<>();

    private OpenRecords(KeyValueStore<Bytes, RoaringBitmap> store, Supplier<Blocks> blocks) {
        this.store = store;
        this.blocks = blocks;
    }

    static StoreBuilder<OpenRecords> builder(String name, Supplier<Blocks> blocks) {
        return new Builder(
                Stores.keyValueStoreBuilder(Stores.persistentKeyValueStore(name), Serdes.Bytes(), BitmapSerde.serde()),
                blocks);
    }

    /** The open record of a volume, for the blocks of the command at {@code position}. */
    Blocks open(String volume, long position) {
        Open found = open.computeIfAbsent(volume, name -> new Open(name, blocks.get()));
        if (found.blocks.count() > MOST_BLOCKS) {
            found.write();
        }
        if (found.blocks.count() == 0) {
            found.first = position;
        }
        found.last = position;
        return found.blocks;
    }

    private final class Open {
        private final byte[] volume;
        private final Blocks blocks;
        private long first;
        private long last;

        Open(String volume, Blocks blocks) {
            this.volume = volume.getBytes(StandardCharsets.UTF_8);
            this.blocks = blocks;
        }

        /** Under the key volume, NUL, first and last position. */
        void write() {
            byte[] key = ByteBuffer.allocate(volume.length + 1 + 2 * Long.BYTES)
                    .put(volume)
                    .put((byte) 0)
                    .putLong(first)
                    .putLong(last)
                    .array();
            store.put(Bytes.wrap(key), blocks.close());
        }
    }

    @Override
    public void flushCache() {
        for (Open each : open.values()) {
            if (each.blocks.count() > 0) {
                each.write();
            }
        }
    }

    @Override
    public boolean setFlushListener(CacheFlushListener<Bytes, byte[]> listener, boolean sendOldValues) {
        return false;
    }

    @Override
    public void clearCache() {
        open.clear();
    }

    @Override
    public String name() {
        return store.name();
    }

    @Override
    public void init(StateStoreContext context, StateStore root) {
        store.init(context, this);
    }

    @Override
    public void flush() {
        store.flush();
    }

    @Override
    public void close() {
        store.close();
    }

    @Override
    public boolean persistent() {
        return true;
    }

    @Override
    public boolean isOpen() {
        return store.isOpen();
    }

    private record Builder(StoreBuilder<KeyValueStore<Bytes, RoaringBitmap>> inner, Supplier<Blocks> blocks)
            implements StoreBuilder<OpenRecords> {
        @Override
        public OpenRecords build() {
            return new OpenRecords(inner.build(), blocks);
        }

        @Override
        public String name() {
            return inner.name();
        }

        @Override
        public Map<String, String> logConfig() {
            return inner.logConfig();
        }

        @Override
        public boolean loggingEnabled() {
            return inner.loggingEnabled();
        }

        @Override
        public StoreBuilder<OpenRecords> withCachingEnabled() {
            return this;
        }

        @Override
        public StoreBuilder<OpenRecords> withCachingDisabled() {
            return this;
        }

        @Override
        public StoreBuilder<OpenRecords> withLoggingEnabled(Map<String, String> config) {
            return new Builder(inner.withLoggingEnabled(config), blocks);
        }

        @Override
        public StoreBuilder<OpenRecords> withLoggingDisabled() {
            return new Builder(inner.withLoggingDisabled(), blocks);
        }
    }
}
