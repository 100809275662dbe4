import java.util.*;
class Heap {
  record Item(long id, String name, double score, List<String> tags) {}
  public static void main(String[] a) throws Exception {
    long limit = Long.parseLong(a[0]); var random = new Random(7); var keep = new HashMap<String, Item>();
    var own = Runtime.getRuntime(); String[] tags = {"red", "green", "blue", "old", "new"};
    for (int i = 0; i % 1000 != 0 || own.totalMemory() - own.freeMemory() < limit; i++) {
      var some = new ArrayList<String>();
      for (int n = random.nextInt(6); n > 0; n--) some.add(tags[random.nextInt(5)] + n);
      keep.put("/srv/data/" + i + ".log", new Item(i, "user" + random.nextInt(1000000), random.nextDouble(), some));
    }
    System.out.println("ready"); System.in.read(); if (keep.size() < 1) System.exit(1);
  }
}
