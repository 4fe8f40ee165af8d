import java.io.FileInputStream;
import java.io.FileOutputStream;

/** Two streams, as Java's own library has them. */
public class Streams {
    public static void main(String[] words) throws Exception {
        try (FileInputStream in = new FileInputStream(words[0]);
                FileOutputStream out = new FileOutputStream(words[0])) {
            out.write("hello".getBytes());
            byte[] text = new byte[80];
            System.out.println(new String(text, 0, in.read(text)));
        }
    }
}
